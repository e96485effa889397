package cli

import (
	"bytes"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"dstack/internal/apidoc"
)

// description is what the published server says of the requests that it takes.
type description struct{ *apidoc.Document }

var loadDescription = sync.OnceValues(func() (*description, error) {
	doc, err := apidoc.Read("../server/testdata/openapi.json.gz")
	if err != nil {
		return nil, err
	}
	// The published server fills in a target that is left out, as its own client leaves it out.
	nodes := doc.(map[string]any)["components"].(map[string]any)["schemas"].(map[string]any)["FleetNodesSpec-Input"].(map[string]any)
	nodes["required"] = []any{"min"}
	d, err := apidoc.New(doc)
	return &description{d}, err
})

func publishedDescription(t *testing.T) *description {
	t.Helper()
	d, err := loadDescription()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// fits says what of a request's body the published server does not take, nil where it takes none.
func (d *description) fits(method, path string, data []byte) error {
	schema, err := d.Request(method, d.Path(path))
	if err != nil || schema == nil {
		return err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return err
	}
	return schema.Validate(doc)
}
