"""The stages of a run: one module is one stage, one frozen config and one function. Ray lives here."""
