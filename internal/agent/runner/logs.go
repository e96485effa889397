package runner

import (
	"net/http"
	"time"

	"github.com/coder/websocket"
)

// logsHandler serves the raw output to published clients (host-agents 2.4): binary
// messages, an empty close frame at the end.
func (r *runner) logsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /logs_ws", func(w http.ResponseWriter, req *http.Request) {
		c, err := websocket.Accept(w, req, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer c.CloseNow()
		offset := int64(0)
		if start := req.URL.Query().Get("start_time"); start != "" {
			at, err := time.Parse(time.RFC3339Nano, start)
			if err != nil {
				_ = c.Close(websocket.StatusUnsupportedData, "failed to parse start_time value")
				return
			}
			offset = r.output.since(at)
		}
		ctx := c.CloseRead(req.Context())
		err = r.output.follow(offset, ctx.Done(), func(p []byte) error { return c.Write(ctx, websocket.MessageBinary, p) })
		if err == nil {
			_ = c.Close(websocket.StatusNoStatusRcvd, "")
		}
	})
	return mux
}

// since finds where the output of a moment begins. Positions are kept per second.
func (o *output) since(at time.Time) int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	pos := o.size
	for i := len(o.seconds) - 1; i >= 0; i-- {
		if o.seconds[i].at < at.Unix() {
			break
		}
		pos = o.seconds[i].offset
	}
	return pos
}

// mark notes where a second's output begins; seconds without output take no room.
func (o *output) mark(now time.Time) {
	if n := len(o.seconds); n > 0 && o.seconds[n-1].at == now.Unix() {
		return
	}
	if len(o.seconds) >= maxMarks { // older positions become coarser
		kept := o.seconds[:0]
		for i := 0; i < len(o.seconds); i += 2 {
			kept = append(kept, o.seconds[i])
		}
		o.seconds = kept
	}
	o.seconds = append(o.seconds, mark{now.Unix(), o.size})
}

type mark struct {
	at     int64 // Unix seconds
	offset int64
}

// maxMarks bounds the memory for positions.
const maxMarks = 50_000
