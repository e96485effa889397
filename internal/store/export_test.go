package store

// Numbered is numbered, for its fuzz test.
var Numbered = numbered
