mod copies;
mod figures;
