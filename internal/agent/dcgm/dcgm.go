// Package dcgm asks the programs of NVIDIA's Data Center GPU Manager on a host: dcgmi for the
// health of GPUs, dcgm-exporter for what they do. The agent links none of NVIDIA's libraries, so
// that it stays one static program; a host without these programs is nothing odd.
//
// Its tests put scripts into PATH that print what the programs do.
package dcgm

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

const (
	// toolTimeout bounds a program that asks the driver, which may hang.
	toolTimeout = 30 * time.Second
	// maxOutput bounds what a program may print, in bytes.
	maxOutput = 1 << 20
)

// run returns what a program prints, also when it fails. A program that prints too much is ended.
func run(ctx context.Context, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, toolTimeout, fmt.Errorf("%s does not answer within %v", name, toolTimeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second // for children that hold its output open
	out := &bounded{most: maxOutput, full: cancel}
	cmd.Stdout = out
	err := cmd.Run()
	switch {
	case out.over:
		return nil, fmt.Errorf("%s prints more than %d bytes", name, maxOutput)
	case err != nil && ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	return out.buf.Bytes(), err
}

// bounded keeps what is written as far as there is room.
type bounded struct {
	buf  bytes.Buffer
	most int
	full func() // told when there is more
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.buf.Len()+len(p) > b.most {
		if b.over = true; b.full != nil {
			b.full()
		}
		return len(p), nil
	}
	return b.buf.Write(p)
}

// short is the first line of a text, as far as people want to see it.
func short(text []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	return line[:min(len(line), 200)]
}
