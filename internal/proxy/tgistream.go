package proxy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
)

// maxEvent bounds an event of a stream, in bytes.
const maxEvent = 4 << 20

// tgiEvent is an event of /generate_stream; the last one has details.
type tgiEvent struct {
	Token struct {
		Text    string `json:"text"`
		Special bool   `json:"special"`
	} `json:"token"`
	Details *tgiSequence `json:"details"`
	Error   *string      `json:"error"`
}

// tgiStream turns TGI's events into chunks of OpenAI's API.
type tgiStream struct {
	out   completion // what all chunks have in common
	stop  []string
	usage bool   // the client wants figures at the end
	held  string // text that may be the beginning of a stop sequence
}

// errUnfinished says that a stream ended before its last event.
var errUnfinished = errors.New("the answer broke off")

// chunks are those that an event becomes; last says that it is the last one.
func (t *tgiStream) chunks(e tgiEvent) (list []completion, last bool, err error) {
	switch {
	case e.Error != nil:
		return nil, true, &refusal{http.StatusBadGateway, "Error requesting model: " + *e.Error}
	case e.Token.Special:
		e.Token.Text = ""
	}
	text := t.held + e.Token.Text
	if e.Details == nil {
		var send string
		send, t.held = hold(text, t.stop)
		return t.text(send), false, nil
	}
	reason, err := finishReason(e.Details.FinishReason)
	if err != nil {
		return nil, true, err
	}
	if e.Details.FinishReason == "stop_sequence" {
		text = trimStop(text, t.stop)
	}
	t.out.Fingerprint = e.Details.fingerprint()
	list = t.text(text)
	end := t.out
	end.Choices = []choice{{Delta: &delta{}, FinishReason: &reason}}
	list = append(list, end)
	if t.usage {
		sum := t.out
		sum.Choices = []choice{}
		sum.Usage = &usage{CompletionTokens: e.Details.GeneratedTokens}
		if n := e.Details.InputLength; n != nil {
			sum.Usage.PromptTokens = *n
		}
		sum.Usage.TotalTokens = sum.Usage.PromptTokens + sum.Usage.CompletionTokens
		list = append(list, sum)
	}
	return list, true, nil
}

// text is a chunk with text, none for "".
func (t *tgiStream) text(text string) []completion {
	if text == "" {
		return nil
	}
	c := t.out
	c.Choices = []choice{{Delta: &delta{"assistant", text}}}
	return []completion{c}
}

// hold keeps back the end of a text with which a stop sequence may begin.
func hold(text string, stop []string) (send, held string) {
	at := len(text)
	for _, s := range stop {
		for n := min(len(s)-1, len(text)); n > len(text)-at; n-- {
			if strings.HasSuffix(text, s[:n]) {
				at = len(text) - n
				break
			}
		}
	}
	return text[:at], text[at:]
}

// relay passes a stream on. Whatever is wrong before the first chunk is an error as usual; after
// that it is a comment, and the end is missing.
func (p *Proxy) relay(w http.ResponseWriter, r *http.Request, from io.Reader, t *tgiStream) {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, maxEvent)
	begun := false
	for {
		event, err := nextEvent(lines)
		var list []completion
		var last bool
		if err == nil {
			list, last, err = t.chunks(event)
		}
		switch {
		case err != nil && !begun:
			p.fail(w, r, err)
			return
		case err != nil:
			_, _ = io.WriteString(w, ": "+strings.Join(strings.Fields(err.Error()), " ")+"\n\n") // the client is gone
			return
		case !begun && len(list) > 0:
			begun = true
			w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
			w.Header().Set("X-Accel-Buffering", "no") // of servers in front of this one
			w.WriteHeader(http.StatusOK)
		}
		if err := writeChunks(w, list, last); err != nil || last {
			return // the client is gone, or has all
		}
	}
}

func nextEvent(lines *bufio.Scanner) (tgiEvent, error) {
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data:"))
		if !ok {
			continue
		}
		var e tgiEvent
		if err := json.Unmarshal(data, &e); err != nil {
			return e, invalidAnswer(err.Error())
		}
		return e, nil
	}
	err := lines.Err()
	if err == nil {
		err = errUnfinished
	}
	return tgiEvent{}, &refusal{http.StatusBadGateway, "Error requesting model: " + err.Error()}
}

func writeChunks(w http.ResponseWriter, list []completion, last bool) error {
	if len(list) == 0 {
		return nil
	}
	var b bytes.Buffer
	for _, c := range list {
		data, err := json.Marshal(c)
		if err != nil {
			return err
		}
		b.WriteString("data:")
		b.Write(data)
		b.WriteString("\n\n")
	}
	if last {
		b.WriteString("data: [DONE]\n\n")
	}
	if _, err := w.Write(b.Bytes()); err != nil {
		return err
	}
	return http.NewResponseController(w).Flush()
}
