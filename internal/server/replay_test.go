package server

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
)

// recording is what the published server answered to one raw call.
type recording struct {
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
	Body    any               `json:"body"`
	Status  int               `json:"status"`
	Type    string            `json:"type"`
	Want    any               `json:"want"`
}

// different are calls that are answered otherwise on purpose, by group and number.
var different = map[string]string{
	"10-api-backends/01":     "the text of a validation library",
	"10-api-backends/02":     "a backend that this build has not is refused before its fields",
	"10-api-lists/00":        "other events are the newest",
	"10-api-lists/15":        "there is no fleet",
	"10-api-lists/16":        "there is no fleet",
	"10-api-lists/19":        "the published server has switched exports off",
	"10-api-lists/20":        "the published server has switched exports off",
	"10-api-logs-metrics/00": "there is no run",
	"10-api-logs-metrics/07": "there is no run",
	"10-api-logs-metrics/08": "there is no run",
	"10-api-malformed/15":    "the error says what a size looks like",
	"10-api-plan-gpus/00":    "no offers, so no highest price",
	"10-api-plan-gpus/01":    "no offers, so no highest price",
	"10-api-repos-files/04":  "no other repo exists",
	"10-api-server/04":       "metrics are off unless asked for",
	"10-api-server/05":       "metrics are off unless asked for",
	"10-api-server/08":       "there is no web interface",
}

// TestReplay sends every recorded raw call, in order, and compares status, words and the
// shape of what comes back.
func TestReplay(t *testing.T) {
	for _, g := range readRecordings(t, "testdata/exchanges.json.gz") {
		t.Run(g.Name, func(t *testing.T) {
			p := player{s: newServer(t), known: map[string]string{}}
			for i, rec := range g.Exchanges {
				p.check(t, fmt.Sprintf("%s/%02d", g.Name, i), rec, different)
			}
		})
	}
}

// recordings are the exchanges of one scenario, in their order.
type recordings struct {
	Name      string      `json:"name"`
	Exchanges []recording `json:"exchanges"`
}

func readRecordings(t *testing.T, path string) []recordings {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	zr, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if data, err = io.ReadAll(zr); err != nil {
		t.Fatal(err)
	}
	var groups []recordings
	if err := json.Unmarshal(withKey(t, data), &groups); err != nil {
		t.Fatal(err)
	}
	return groups
}

// check plays one recording and compares, unless it is listed with the reason why the answer
// differs. One that is listed and does not differ is listed no longer.
func (p *player) check(t *testing.T, id string, rec recording, different map[string]string) {
	t.Helper()
	got := p.play(t, rec)
	problems := p.compare(rec, got)
	switch why := different[id]; {
	case why != "" && len(problems) == 0:
		t.Errorf("%s is listed as different (%s), but is not", id, why)
	case why == "" && len(problems) > 0:
		t.Errorf("%s: %s %s %s\n  want %d %s\n  got  %d %s\n  %s", id, rec.Method, rec.Path, short(marshal(rec.Body)), rec.Status, short(marshal(rec.Want)), got.Status, short(got.Body), strings.Join(problems, "\n  "))
	}
}

// carol is the token of a user that the recording does not show being asked for.
const carol = "00000004-0000-4000-8000-000000000004"

func marshal(v any) []byte {
	data, _ := json.Marshal(v)
	return data
}

func short(b []byte) string {
	if len(b) > 400 {
		return string(b[:400]) + "…"
	}
	return string(b)
}

// player knows which of our ids and tokens stand for the recorded ones.
type player struct {
	s     *Server
	known map[string]string
}

func (p *player) ours(text string) string {
	for old, now := range p.known {
		text = strings.ReplaceAll(text, old, now)
	}
	return text
}

func (p *player) play(t *testing.T, rec recording) answer {
	var body any
	var header []string
	if rec.Body != nil {
		switch b, ok := rec.Body.(map[string]any); {
		case ok && b["$text"] != nil:
			body = []byte(b["$text"].(string))
		case ok && b["$binary"] == true:
			body = fmt.Appendf(nil, "--rigboundary\r\nContent-Disposition: form-data; name=\"file\"; filename=\"big.tar\"\r\n\r\n%s\r\n--rigboundary--\r\n", make([]byte, 3<<20))
		default:
			body = []byte(p.ours(string(marshal(rec.Body))))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(rec.Headers)) {
		header = append(header, k, p.ours(rec.Headers[k]))
	}
	if _, ok := rec.Headers["content-type"]; !ok {
		header = append(header, "Content-Type", "")
	}
	a := p.s.call(t, rec.Method, p.ours(rec.Path), "", body, header...)
	if rec.Method == http.MethodHead {
		a.Body = nil
	}
	if b, ok := rec.Body.(map[string]any); ok && a.Status == http.StatusOK && strings.HasSuffix(rec.Path, "/users/create") && b["username"] == "carol" {
		p.known[carol] = p.s.token(t, "carol")
	}
	return a
}

func (p *player) compare(rec recording, got answer) []string {
	if got.Status != rec.Status {
		return []string{"the status differs"}
	}
	if !strings.HasPrefix(rec.Type, "application/json") {
		return nil
	}
	if rec.Method == http.MethodHead || rec.Method == http.MethodOptions {
		return nil
	}
	if !got.isJSON() {
		return []string{"not JSON: " + got.Header.Get("Content-Type")}
	}
	var have any
	if err := json.Unmarshal(got.Body, &have); err != nil {
		return []string{err.Error()}
	}
	return p.shape("$", rec.Want, have, rec.Status >= 400)
}

// shape compares keys, kinds and nullness; with exact also texts.
func (p *player) shape(at string, want, have any, exact bool) []string {
	switch w := want.(type) {
	case map[string]any:
		h, ok := have.(map[string]any)
		if !ok {
			return []string{fmt.Sprintf("%s: an object is expected, not %s", at, short(marshal(have)))}
		}
		return p.object(at, w, h, exact)
	case []any:
		h, ok := have.([]any)
		if !ok {
			return []string{fmt.Sprintf("%s: a list is expected, not %s", at, short(marshal(have)))}
		}
		var problems []string
		for i := range min(len(w), len(h)) {
			problems = append(problems, p.shape(fmt.Sprintf("%s[%d]", at, i), w[i], h[i], exact)...)
		}
		return problems
	case string:
		h, ok := have.(string)
		if !ok {
			return []string{fmt.Sprintf("%s: a text is expected, not %s", at, short(marshal(have)))}
		}
		if len(w) == 36 && len(h) == 36 && strings.Count(w, "-") == 4 {
			p.known[w] = h
			return nil
		}
		if exact && (strings.HasSuffix(at, ".msg") || strings.HasSuffix(at, ".code") || strings.HasSuffix(at, ".detail")) && h != p.ours(w) {
			return []string{fmt.Sprintf("%s: %q, want %q", at, h, w)}
		}
	case nil:
		if have != nil {
			return []string{fmt.Sprintf("%s: null is expected, not %s", at, short(marshal(have)))}
		}
	default:
		if fmt.Sprintf("%T", want) != fmt.Sprintf("%T", have) {
			return []string{fmt.Sprintf("%s: %T is expected, not %s", at, want, short(marshal(have)))}
		}
	}
	return nil
}

func (p *player) object(at string, want, have map[string]any, exact bool) []string {
	var problems []string
	for _, k := range slices.Sorted(maps.Keys(want)) {
		h, ok := have[k]
		switch {
		case k == "input" || k == "ctx": // of validation errors: what was sent
		case !ok:
			problems = append(problems, fmt.Sprintf("%s.%s is missing", at, k))
		default:
			problems = append(problems, p.shape(at+"."+k, want[k], h, exact)...)
		}
	}
	for k := range have {
		if _, ok := want[k]; !ok && k != "input" {
			problems = append(problems, fmt.Sprintf("%s.%s is more than the original has", at, k))
		}
	}
	return problems
}
