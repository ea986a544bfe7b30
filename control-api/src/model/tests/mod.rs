mod resolved;
mod validated;
