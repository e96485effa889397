package pricelist

import (
	"bytes"
	_ "embed"
)

// snapshot is made by `make catalog` from the files of internal/catalog/facts.
//
//go:embed snapshot.gz
var snapshot []byte

// Embedded reads the list that is part of the program.
func Embedded() (*List, error) { return Decode(bytes.NewReader(snapshot)) }
