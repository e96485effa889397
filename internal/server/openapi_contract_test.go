package server

import (
	"bytes"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"dstack/internal/apidoc"
)

// added are the fields that our answers have beyond the description, with the reason. Published
// clients and their models ignore what they do not know.
var added = map[string]string{
	"backend_problems": "of plans: backends that do not answer, whose offers are missing or old, which the original only logs",
	"why_not":          "of plans: what excludes the other offers where few fit",
	"lowered_offers":   "of plans: offers that could not be had lately and so come later than their price would have it",

	"machine_cost": "of runs, fleets and instances: what machines really cost, which the original does not count",

	"waiting": "of runs: their place in the queue and why they are not placed, which the original does not tell",
}

// The backend "local" is another addition: clients that say which published version they are
// hear of it as publishedWords has it, so the others' answers are read in those words.

// TestContractOperations compares the operations of the published description with our routes.
func TestContractOperations(t *testing.T) {
	c := published(t)
	ours := map[string]bool{}
	for _, rt := range Routes() {
		ours[rt.Method+" "+anonymous(rt.Path)] = true
	}
	for path, methods := range c.Root["paths"].(map[string]any) {
		for method := range methods.(map[string]any) {
			if op := strings.ToUpper(method) + " " + anonymous(path); !ours[op] {
				t.Errorf("%s is not served", op)
			}
		}
	}
}

// TestContractFinds checks that answers which do not fit are found.
func TestContractFinds(t *testing.T) {
	c := published(t)
	const path = "/api/project/main/secrets/get"
	for body, fits := range map[string]bool{
		`{"id":"27bb4e3a-4a2c-4c5e-8f5c-000000000001","name":"x","value":null}`:                    true,
		`{"id":"27bb4e3a-4a2c-4c5e-8f5c-000000000001","name":"x","value":null,"waiting":"queued"}`: true, // see added
		`{"id":"27bb4e3a-4a2c-4c5e-8f5c-000000000001","value":null}`:                               false,
		`{"id":"1","name":"x","value":null}`:                                                       false,
		`{"id":"27bb4e3a-4a2c-4c5e-8f5c-000000000001","name":"x","value":7}`:                       false,
		`{"id":"27bb4e3a-4a2c-4c5e-8f5c-000000000001","name":"x","value":null,"more":1}`:           false,
		`null`: false,
	} {
		if err := c.check("POST", path, http.Header{}, http.StatusOK, []byte(body)); (err == nil) != fits {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// TestContractHoldsRecordings checks the check: what the published server answered fits its
// own description.
func TestContractHoldsRecordings(t *testing.T) {
	c := published(t)
	for _, path := range []string{"testdata/exchanges.json.gz", "testdata/commands.json.gz"} {
		for _, g := range readRecordings(t, path) {
			for i, rec := range g.Exchanges {
				if !strings.HasPrefix(rec.Type, "application/json") {
					continue
				}
				header := http.Header{}
				for k, v := range rec.Headers {
					header.Set(k, v)
				}
				if err := c.check(rec.Method, rec.Path, header, rec.Status, marshal(rec.Want)); err != nil {
					t.Errorf("%s/%02d %s %s: %v", g.Name, i, rec.Method, rec.Path, err)
				}
			}
		}
	}
}

// contract is the published server's description of itself.
type contract struct{ *apidoc.Document }

var published = func() func(testing.TB) *contract {
	load := sync.OnceValues(loadContract)
	return func(t testing.TB) *contract {
		t.Helper()
		c, err := load()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
}()

func loadContract() (*contract, error) {
	doc, err := apidoc.Read("testdata/openapi.json.gz")
	if err != nil {
		return nil, err
	}
	d, err := apidoc.New(doc, &uuid4)
	return &contract{d}, err
}

// uuid4 is a format of the published description.
var uuid4 = jsonschema.Format{Name: "uuid4", Validate: func(v any) error {
	s, ok := v.(string)
	if !ok {
		return nil
	}
	id, err := uuid.Parse(s)
	if err == nil && id.Version() != 4 {
		err = fmt.Errorf("version %d", id.Version())
	}
	return err
}}

var pathParameter = regexp.MustCompile(`\{[^/]+\}`)

// anonymous is a path without the names of its parameters.
func anonymous(path string) string { return pathParameter.ReplaceAllString(path, "{}") }

// check says what of an answer does not fit the description. Only successes are looked at:
// the description's errors are not what the published server sends, see [TestReplay]. Nor are
// the forms for clients before the one that the description is of.
func (c *contract) check(method, path string, header http.Header, status int, body []byte) error {
	if v, known := clientVersion(header); status != http.StatusOK || known && v.before(0, 20, 20) {
		return nil
	}
	schema, err := c.Response(method, c.Path(path), "200", "application/json")
	if err != nil || schema == nil {
		return err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	each(doc, func(m map[string]any) {
		publishedWords(m)
		for name := range added {
			delete(m, name)
		}
	})
	return schema.Validate(doc)
}
