// Package agentbin holds the agent's binaries for the architectures of hosts, embedded in
// the server, so that hosts need no download from anywhere else.
package agentbin

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io"
	"sync"
)

//go:embed bin
var files embed.FS

// Binary is one agent.
type Binary struct {
	Data   []byte
	SHA256 string
}

// Source unpacks binaries when they are needed and keeps them. It is safe for concurrent use.
type Source struct {
	mu   sync.Mutex
	seen map[string]Binary
}

// New returns a Source over the embedded binaries.
func New() *Source { return &Source{seen: map[string]Binary{}} }

// Of returns a Source of other binaries, by architecture.
func Of(binaries map[string][]byte) *Source {
	s := New()
	for arch, data := range binaries {
		sum := sha256.Sum256(data)
		s.seen[arch] = Binary{Data: data, SHA256: hex.EncodeToString(sum[:])}
	}
	return s
}

// Get returns the agent for "amd64" or "arm64".
func (s *Source) Get(arch string) (Binary, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.seen[arch]; ok {
		return b, nil
	}
	packed, err := files.ReadFile("bin/dstack-agent-linux-" + arch + ".gz")
	if err != nil {
		return Binary{}, fmt.Errorf("this build holds no agent for linux/%s; build with make build", arch)
	}
	zr, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return Binary{}, fmt.Errorf("unpack the agent for linux/%s: %w", arch, err)
	}
	data, err := io.ReadAll(zr)
	if err != nil {
		return Binary{}, fmt.Errorf("unpack the agent for linux/%s: %w", arch, err)
	}
	sum := sha256.Sum256(data)
	b := Binary{Data: data, SHA256: hex.EncodeToString(sum[:])}
	s.seen[arch] = b
	return b, nil
}
