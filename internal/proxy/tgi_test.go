package proxy

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/config"
)

// tgi is a server as the description of TGI's API has it: it generates the words of its script.
type tgi struct {
	t      *testing.T
	script []string // the tokens to generate
	finish string
	asked  []map[string]any
}

func (g *tgi) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	data, _ := io.ReadAll(r.Body)
	var ask struct {
		Inputs     string
		Parameters map[string]any
	}
	whole := map[string]any{}
	if json.Unmarshal(data, &ask) != nil || json.Unmarshal(data, &whole) != nil || r.Header.Get("Content-Type") != "application/json" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	g.asked = append(g.asked, whole)
	refuse := func(text string) {
		w.WriteHeader(http.StatusUnprocessableEntity)
		fmt.Fprintf(w, `{"error":"Input validation error: %s","error_type":"validation"}`, text)
	}
	stream := r.URL.Path == "/generate_stream"
	switch {
	case r.Method != "POST" || !stream && r.URL.Path != "/generate":
		w.WriteHeader(http.StatusNotFound)
		return
	case ask.Inputs == "":
		refuse("`inputs` cannot be empty")
		return
	case ask.Parameters["temperature"] != nil && ask.Parameters["temperature"].(float64) <= 0:
		refuse("`temperature` must be strictly positive")
		return
	case stream && ask.Parameters["best_of"].(float64) > 1:
		refuse("`best_of` != 1 is not supported when streaming tokens")
		return
	case stream && ask.Parameters["decoder_input_details"] == true:
		refuse("`decoder_input_details` == true is not supported when streaming tokens")
		return
	}
	text := strings.TrimSuffix(strings.Join(g.script, ""), "</s>")
	seed := `42`
	if ask.Parameters["do_sample"] == false {
		seed = `null`
	}
	if !stream {
		sequence := fmt.Sprintf(`{"finish_reason":%q,"generated_tokens":%d,"seed":%s,"prefill":[{"id":1,"text":"a","logprob":null},{"id":2,"text":"b","logprob":-1}],"tokens":[]`, g.finish, len(g.script), seed)
		var more []string
		for range int(ask.Parameters["best_of"].(float64)) - 1 {
			more = append(more, `{"generated_text":"another","finish_reason":"length","generated_tokens":1,"seed":7,"prefill":[],"tokens":[]}`)
		}
		fmt.Fprintf(w, `{"generated_text":%q,"details":%s,"best_of_sequences":[%s]}}`, text, sequence, strings.Join(more, ","))
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprint(w, ":keep-alive\n\n")
	for i, token := range g.script {
		switch {
		case token == "ERROR":
			fmt.Fprint(w, "data:{\"error\":\"Request failed during generation\",\"error_type\":\"generation\"}\n\n")
			return
		case token == "BREAK":
			return
		case token == "NONSENSE":
			fmt.Fprint(w, "data:nonsense\n\n")
			return
		}
		details, generated := "null", "null"
		if i == len(g.script)-1 {
			generated = fmt.Sprintf("%q", text)
			details = fmt.Sprintf(`{"finish_reason":%q,"generated_tokens":%d,"seed":%s,"input_length":2}`, g.finish, len(g.script), seed)
		}
		fmt.Fprintf(w, "data:{\"index\":%d,\"token\":{\"id\":1,\"text\":%q,\"logprob\":-1,\"special\":%t},\"generated_text\":%s,\"details\":%s}\n\n", i+1, token, token == "</s>", generated, details)
		_ = http.NewResponseController(w).Flush()
	}
}

const chatML = "{% for m in messages %}<|{{ m.role }}|>{{ m['content'] }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"

// serveTGI adds a service with a model of format tgi.
func (w *world) serveTGI(name, template string, handlers ...http.Handler) {
	c := open()
	c.Model = &config.Model{Type: "chat", Name: name, Format: "tgi"}
	w.serve(name, c, handlers...)
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.services[name]
	s.SubmittedAt, s.ChatTemplate, s.EOSToken = time.Unix(1_700_000_000, 0), template, "</s>"
	w.services[name] = s
}

// masked is an answer without what differs each time.
func masked(t *testing.T, body string) string {
	t.Helper()
	var c struct {
		ID      string
		Created int64
	}
	if err := json.Unmarshal([]byte(body), &c); err != nil {
		t.Errorf("%v in %s", err, body)
		return body
	}
	if len(c.ID) != 32 || time.Since(time.Unix(c.Created, 0)) > time.Minute {
		t.Errorf("id %q, created %d", c.ID, c.Created)
	}
	return strings.Replace(strings.Replace(body, c.ID, "ID", 1), fmt.Sprint(c.Created), "0", 1)
}

const chatPath = "/proxy/models/main/chat/completions"

func TestTGI(t *testing.T) {
	w := newWorld(t, 0)
	g := &tgi{t: t, script: []string{"Hel", "lo", "</s>"}, finish: "eos_token"}
	w.serveTGI("m", chatML, g)
	const two = `"messages":[{"role":"system","content":"Be kind."},{"role":"user","content":[{"type":"text","text":"Hi"},{"type":"text","text":"you"}]}]`
	for name, tt := range map[string]struct {
		script     []string
		finish     string
		ask        string // beyond model and messages
		parameters string
		want       string // choices, fingerprint and usage
	}{
		"plain": {[]string{"Hel", "lo", "</s>"}, "eos_token", ``,
			`{"do_sample":true,"stop":["</s>"],"temperature":1,"best_of":1,"details":true,"decoder_input_details":true}`,
			`"system_fingerprint":"fp_42","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5}}`},
		"all parameters": {[]string{"Hel"}, "length", `,"max_tokens":9,"temperature":0.5,"top_p":0.9,"seed":-3,"stop":["a","b"],"n":2,"user":"me","tools":[],"top_k":4`,
			`{"do_sample":true,"max_new_tokens":9,"stop":["a","b","</s>"],"seed":-3,"temperature":0.5,"top_p":0.9,"best_of":2,"details":true,"decoder_input_details":true}`,
			`"system_fingerprint":"fp_42","choices":[{"index":0,"message":{"role":"assistant","content":"Hel"},"logprobs":null,"finish_reason":"length"},{"index":1,"message":{"role":"assistant","content":"another"},"logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":2,"completion_tokens":2,"total_tokens":4}}`},
		"a stop sequence": {[]string{"One", " STOP"}, "stop_sequence", `,"stop":" STOP","max_completion_tokens":7`,
			`{"do_sample":true,"max_new_tokens":7,"stop":[" STOP","</s>"],"temperature":1,"best_of":1,"details":true,"decoder_input_details":true}`,
			`"system_fingerprint":"fp_42","choices":[{"index":0,"message":{"role":"assistant","content":"One"},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":2,"total_tokens":4}}`},
		"nothing said": {[]string{"</s>"}, "eos_token", `,"stop":null,"max_tokens":null,"temperature":0,"top_p":0.5`,
			`{"do_sample":false,"stop":["</s>"],"best_of":1,"details":true,"decoder_input_details":true}`,
			`"system_fingerprint":"","choices":[{"index":0,"message":{"role":"assistant","content":""},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":1,"total_tokens":3}}`},
	} {
		g.script, g.finish, g.asked = tt.script, tt.finish, nil
		r := w.ask("POST", chatPath, `{"model":"m",`+two+tt.ask+`}`)
		if r.status != http.StatusOK || r.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s", name, r.status, r.body)
			continue
		}
		if diff := cmp.Diff(`{"id":"ID","object":"chat.completion","created":0,"model":"m",`+tt.want, masked(t, r.body)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		want := map[string]any{}
		if err := json.Unmarshal([]byte(`{"inputs":"<|system|>Be kind.</s><|user|>Hi\nyou</s><|assistant|>","parameters":`+tt.parameters+`}`), &want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]map[string]any{want}, g.asked); diff != "" {
			t.Errorf("%s: TGI was asked (-want +got):\n%s", name, diff)
		}
	}
	w.want(w.ask("GET", "/proxy/models/main/models", ""), http.StatusOK, `{"object":"list","data":[{"object":"model","id":"m","created":1700000000,"owned_by":"main"}]}`)
}

func TestTGIStream(t *testing.T) {
	w := newWorld(t, 0)
	g := &tgi{t: t}
	w.serveTGI("m", chatML, g)
	for name, tt := range map[string]struct {
		script []string
		finish string
		ask    string
		want   []string // what is said, by chunk; then its finish reason, and what follows
	}{
		"to the end":              {[]string{"Hel", "lo", "</s>"}, "eos_token", ``, []string{"Hel", "lo", "-stop", "[DONE]"}},
		"to the length":           {[]string{"Hel", "lo"}, "length", `,"max_tokens":2`, []string{"Hel", "lo", "-length", "[DONE]"}},
		"a stop sequence":         {[]string{"a", " ST", "O", "P"}, "stop_sequence", `,"stop":[" STOP"]`, []string{"a", "-stop", "[DONE]"}},
		"what seemed to be one":   {[]string{"a", " ST", "O", "NE", "</s>"}, "eos_token", `,"stop":[" STOP"]`, []string{"a", " STONE", "-stop", "[DONE]"}},
		"the beginning of one":    {[]string{"a", " ST"}, "length", `,"stop":[" STOP"]`, []string{"a", " ST", "-length", "[DONE]"}},
		"figures":                 {[]string{"a", "</s>"}, "eos_token", `,"stream_options":{"include_usage":true}`, []string{"a", "-stop", `{"prompt_tokens":2,"completion_tokens":2,"total_tokens":4}`, "[DONE]"}},
		"an error on the way":     {[]string{"a", "ERROR"}, "", ``, []string{"a", ": Error requesting model: Request failed during generation"}},
		"nonsense on the way":     {[]string{"a", "NONSENSE"}, "", ``, []string{"a", ": Invalid response from model: invalid character 'o' in literal null (expecting 'u')"}},
		"it breaks off":           {[]string{"a", "BREAK"}, "", ``, []string{"a", ": Error requesting model: the answer broke off"}},
		"an unknown word for end": {[]string{"a", "b"}, "mood", ``, []string{"a", ": Unknown finish reason: mood"}},
	} {
		g.script, g.finish = tt.script, tt.finish
		r := w.ask("POST", chatPath, `{"model":"m","stream":true,"messages":[{"role":"user","content":"Hi"}]`+tt.ask+`}`)
		if r.status != http.StatusOK || r.header.Get("Content-Type") != "text/event-stream; charset=utf-8" || r.header.Get("X-Accel-Buffering") != "no" {
			t.Errorf("%s: %d %v %s", name, r.status, r.header, r.body)
			continue
		}
		var got []string
		for event := range strings.SplitSeq(strings.TrimSuffix(r.body, "\n\n"), "\n\n") {
			got = append(got, said(t, event))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	// One chunk in full.
	g.script, g.finish = []string{"Hi", "</s>"}, "eos_token"
	first, _, _ := strings.Cut(w.ask("POST", chatPath, `{"model":"m","stream":true,"messages":[{"role":"user","content":"Hi"}]}`).body, "\n\n")
	if diff := cmp.Diff(`{"id":"ID","object":"chat.completion.chunk","created":0,"model":"m","system_fingerprint":"","choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"},"logprobs":null,"finish_reason":null}]}`, masked(t, strings.TrimPrefix(first, "data:"))); diff != "" {
		t.Errorf("a chunk (-want +got):\n%s", diff)
	}
}

// said is what an event of a stream says.
func said(t *testing.T, event string) string {
	t.Helper()
	data, ok := strings.CutPrefix(event, "data:")
	if !ok || strings.HasPrefix(data, " [") {
		return strings.TrimPrefix(event, "data: ")
	}
	masked(t, data)
	var c completion
	var usage struct{ Usage json.RawMessage }
	if json.Unmarshal([]byte(data), &c) != nil || json.Unmarshal([]byte(data), &usage) != nil {
		t.Errorf("%s", data)
	}
	switch {
	case len(c.Choices) == 0:
		return string(usage.Usage)
	case c.Choices[0].FinishReason != nil:
		return c.Choices[0].Delta.Content + "-" + *c.Choices[0].FinishReason
	}
	return c.Choices[0].Delta.Content
}

// Whatever goes wrong before the first word is an answer of its own, also to a request for a stream.
func TestTGIRefusals(t *testing.T) {
	w := newWorld(t, 0)
	w.serveTGI("m", chatML, &tgi{t: t, script: []string{"ERROR"}, finish: "mood"})
	w.serveTGI("broken", "{{ messages", &tgi{t: t})
	w.serveTGI("raises", "{{ raise_exception('roles must alternate') }}", &tgi{t: t})
	w.serveTGI("endless", "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", &tgi{t: t})
	w.serveTGI("empty", "", &tgi{t: t})
	w.serveTGI("nonsense", chatML, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"generated_text":"x"}`) }))
	w.serveTGI("html", chatML, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `<html>`) }))
	w.serveTGI("gone", chatML)
	w.serveTGI("down", chatML, &tgi{t: t})
	w.mu.Lock()
	delete(w.addrs, "down-0")
	w.mu.Unlock()
	const hi = `,"messages":[{"role":"user","content":"Hi"}]`
	for _, tt := range []struct {
		body   string
		status int
		want   string
	}{
		{`"model":"broken"` + hi, 400, `{"detail":"Failed to compile chat template: line 1: a tag does not end"}`},
		{`"model":"raises"` + hi, 400, `{"detail":"Failed to render chat template: roles must alternate"}`},
		{`"model":"endless"` + hi, 400, `{"detail":"Failed to render chat template: line 1: the template takes too long: more than 3000000 steps"}`},
		{`"model":"empty"` + hi, 422, `{"detail":"{\"error\":\"Input validation error: ` + "`inputs`" + ` cannot be empty\",\"error_type\":\"validation\"}"}`},
		{`"model":"nonsense"` + hi, 502, `{"detail":"Invalid response from model: details are missing"}`},
		{`"model":"html"` + hi, 502, `{"detail":"Invalid response from model: invalid character '\u003c' looking for beginning of value"}`},
		{`"model":"gone"` + hi, 404, `{"detail":"Model gone not found in project main"}`},
		{`"model":"down"` + hi, 502, `{"detail":"Error requesting model: connect to a replica: connection refused"}`},
		{`"model":"m"` + hi, 502, `{"detail":"Unknown finish reason: mood"}`},
		{`"model":"m","stream":true` + hi, 502, `{"detail":"Error requesting model: Request failed during generation"}`},
		{`"model":"m","stream":true,"n":2` + hi, 422, `{"detail":"{\"error\":\"Input validation error: ` + "`best_of`" + ` != 1 is not supported when streaming tokens\",\"error_type\":\"validation\"}"}`},
		{`"model":"m","messages":["x"]`, 422, `{"detail":[{"type":"model_attributes_type","loc":["body","messages",0],"msg":"Input should be a message with role and content","input":"x"}]}`},
		{`"model":"m","messages":[{"content":"x"}]`, 422, `{"detail":[{"type":"string_type","loc":["body","messages",0,"role"],"msg":"Field required","input":{"content":"x"}}]}`},
		{`"model":"m","messages":[{"role":"user"}]`, 422, `{"detail":[{"type":"string_type","loc":["body","messages",0,"content"],"msg":"Input should be a text, or a list of texts","input":{"role":"user"}}]}`},
		{`"model":"m","messages":[{"role":"user","content":null}]`, 422, `{"detail":[{"type":"string_type","loc":["body","messages",0,"content"],"msg":"Input should be a text, or a list of texts","input":{"role":"user","content":null}}]}`},
		{`"model":"m","messages":[{"role":"user","content":[{"type":"image_url"}]}]`, 422, `{"detail":[{"type":"string_type","loc":["body","messages",0,"content"],"msg":"This model reads texts only","input":{"role":"user","content":[{"type":"image_url"}]}}]}`},
		{`"model":"m","max_tokens":"x","n":0,"temperature":-1,"stop":7` + hi, 422, `{"detail":[{"type":"int_type","loc":["body","max_tokens"],"msg":"Input should be a valid integer","input":"x"},{"type":"value_error","loc":["body","n"],"msg":"Input should be between 1 and 128","input":0},{"type":"greater_than_equal","loc":["body","temperature"],"msg":"Input should be greater than or equal to 0","input":-1},{"type":"list_type","loc":["body","stop"],"msg":"Input should be a string or a list of strings","input":7}]}`},
	} {
		w.want(w.ask("POST", chatPath, "{"+tt.body+"}"), tt.status, tt.want)
	}
}
