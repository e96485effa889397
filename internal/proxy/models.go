package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"dstack/internal/run"
	"dstack/internal/store"
)

const (
	// maxChat bounds a conversation, in bytes: pictures are part of some.
	maxChat = 32 << 20
	// maxRefusal bounds what is passed on of a model's refusal, in bytes.
	maxRefusal = 1 << 20
)

// model is an entry of the list of models, as OpenAI's API has it.
type model struct {
	Object  string `json:"object"`
	ID      string `json:"id"`
	Created int64  `json:"created"` // Unix seconds
	OwnedBy string `json:"owned_by"`
}

type modelList struct {
	Object string  `json:"object"`
	Data   []model `json:"data"`
}

// Models lists the models of a project to its members.
func (p *Proxy) Models(w http.ResponseWriter, r *http.Request, project string) {
	list, err := p.models(r, project)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	out := modelList{Object: "list", Data: []model{}}
	for _, s := range list {
		if len(s.Replicas) > 0 || s.Scales() {
			out.Data = append(out.Data, model{"model", s.Service.Model.Name, s.SubmittedAt.Unix(), project})
		}
	}
	answer(w, http.StatusOK, out)
}

func (p *Proxy) models(r *http.Request, project string) ([]run.Served, error) {
	if err := p.authorize(r, project); err != nil {
		return nil, err
	}
	list, err := p.Services.Models(r.Context(), project)
	if errors.Is(err, store.ErrNotFound) {
		return nil, &refusal{http.StatusNotFound, "Project " + project + " not found"}
	}
	return list, err
}

// Chat asks a model of a project for one of its members. To one that speaks OpenAI's API, what the
// client sent goes as it is, and the answer comes back so.
func (p *Proxy) Chat(w http.ResponseWriter, r *http.Request, project string) {
	list, err := p.models(r, project)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	chat, problems, err := readChat(r.Body)
	switch {
	case err != nil:
		p.fail(w, r, err)
		return
	case problems != nil:
		answer(w, http.StatusUnprocessableEntity, map[string]any{"detail": problems})
		return
	}
	s, ok := newest(list, chat.Model)
	if !ok {
		p.fail(w, r, &refusal{http.StatusNotFound, fmt.Sprintf("Model %s not found in project %s", chat.Model, project)})
		return
	}
	if s.Service.Model.Format == "tgi" {
		p.generate(w, r, s, chat)
		return
	}
	res, err := p.ask(r, s, strings.TrimSuffix(s.Service.Model.Prefix, "/")+"/chat/completions", chat.body, chat.Stream)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	defer res.Body.Close()
	w.Header().Set("Content-Type", res.Header.Get("Content-Type"))
	w.Header().Set("X-Accel-Buffering", "no") // of servers in front of this one
	w.WriteHeader(http.StatusOK)
	copyAtOnce(w, res.Body)
}

// newest is the newest service with a model. One that takes requests goes before one that
// does not.
func newest(list []run.Served, name string) (run.Served, bool) {
	var waiting *run.Served
	for i, s := range list {
		switch {
		case s.Service.Model.Name != name:
		case len(s.Replicas) > 0:
			return s, true
		case s.Scales() && waiting == nil:
			waiting = &list[i]
		}
	}
	if waiting == nil {
		return run.Served{}, false
	}
	return *waiting, true
}

// ask asks a model at a path of its service. An answer other than 200 is an error with the same
// status.
func (p *Proxy) ask(r *http.Request, s run.Served, at string, body []byte, stream bool) (*http.Response, error) {
	a := address{rest: at}
	a.whole = prefix + url.PathEscape(s.Project) + "/" + url.PathEscape(s.Name) + a.rest
	path, err := a.upstream(s.Service.StripPrefix, s.Routed())
	if err != nil {
		return nil, err
	}
	p.traffic.count(&s)
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, "http://"+s.RunID+path, bytes.NewReader(body))
	if err != nil {
		return nil, &refusal{http.StatusBadGateway, "Error requesting model: " + err.Error()}
	}
	req.Header.Set("Content-Type", "application/json")
	if stream {
		req.Header.Set("Accept", "text/event-stream")
	}
	known, err := p.known.find(r.Context(), s.Project, s.Name, p.Services.Served) // for its turn
	if err != nil {
		return nil, err
	}
	res, err := (&sender{p, known, &input{ReadCloser: req.Body}}).RoundTrip(req)
	if no, ok := errors.AsType[*refusal](err); ok {
		return nil, no
	}
	if err != nil {
		return nil, &refusal{http.StatusBadGateway, "Error requesting model: " + err.Error()}
	}
	if res.StatusCode != http.StatusOK {
		defer res.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(res.Body, maxRefusal)) // as far as it came
		return nil, &refusal{res.StatusCode, string(text)}
	}
	return res, nil
}

// chat is a request of OpenAI's API. What it has beyond these fields is the model's business.
type chat struct {
	Model  string
	Stream bool
	body   []byte
}

// problem is what is wrong with a field.
type problem struct {
	Type  string `json:"type"`
	Loc   []any  `json:"loc"`
	Msg   string `json:"msg"`
	Input any    `json:"input"`
}

// readChat reads a request, and says what is wrong with its fields.
func readChat(r io.Reader) (chat, []problem, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxChat+1))
	switch {
	case err != nil:
		return chat{}, nil, &refusal{http.StatusBadRequest, "Client disconnected"}
	case len(data) > maxChat:
		return chat{}, nil, &refusal{http.StatusRequestEntityTooLarge, fmt.Sprintf("The request body is larger than %d bytes", maxChat)}
	}
	c := chat{body: data}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &fields); err != nil {
		return c, []problem{{"json_invalid", []any{"body", 0}, "JSON decode error", map[string]any{}}}, nil
	}
	var problems []problem
	read := func(name, kind, msg string, required bool, to any) {
		raw, there := fields[name]
		switch {
		case !there && required:
			problems = append(problems, problem{"missing", []any{"body", name}, "Field required", map[string]any{}})
		case there && (json.Unmarshal(raw, to) != nil || required && string(raw) == "null"):
			problems = append(problems, problem{kind, []any{"body", name}, msg, raw})
		}
	}
	var messages []json.RawMessage
	read("messages", "list_type", "Input should be a valid list", true, &messages)
	read("model", "string_type", "Input should be a valid string", true, &c.Model)
	read("stream", "bool_type", "Input should be a valid boolean", false, &c.Stream)
	return c, problems, nil
}

// copyAtOnce passes a body on piece by piece. One that breaks off leaves the answer without its
// end, which clients notice.
func copyAtOnce(w http.ResponseWriter, body io.Reader) {
	flush := http.NewResponseController(w).Flush
	buf := buffers.Get()
	defer buffers.Put(buf)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return // the client is gone
			}
			if flush() != nil {
				return
			}
		}
		switch {
		case err == io.EOF:
			return
		case err != nil:
			panic(http.ErrAbortHandler)
		}
	}
}
