"""The paper's tables and figures: declared as data (`paper`), shrunk to a scale (`scales`), turned into runs (`plan`),
run and measured (`runner`, `measure`)."""
