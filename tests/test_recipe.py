def test_package_imports():
    import coadvise

    assert coadvise.__version__
