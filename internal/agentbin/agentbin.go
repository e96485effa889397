// Package agentbin holds the agent's binaries for the architectures of hosts, embedded in
// the server, so that hosts need no download from anywhere else.
package agentbin

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
)

//go:embed bin
var files embed.FS

// Binary is one agent. It is kept packed: twelve megabytes that are needed for a moment now
// and then would stay in memory for good.
type Binary struct {
	SHA256 string // of the unpacked bytes, in hex
	file   string // embedded, gzip; "": plain
	plain  []byte
}

// Open returns a reader of the unpacked bytes.
func (b Binary) Open() (io.Reader, error) {
	if b.file == "" {
		return bytes.NewReader(b.plain), nil
	}
	packed, err := files.Open(b.file)
	if err != nil {
		return nil, fmt.Errorf("unpack the agent: %w", err)
	}
	r, err := gzip.NewReader(packed)
	if err != nil {
		return nil, fmt.Errorf("unpack the agent: %w", err)
	}
	return r, nil
}

// Source finds binaries and remembers their hashes. It is safe for concurrent use.
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
		s.seen[arch] = Binary{SHA256: hex.EncodeToString(sum[:]), plain: data}
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
	b := Binary{file: "bin/dstack-agent-linux-" + arch + ".gz"}
	r, err := b.Open()
	if errors.Is(err, fs.ErrNotExist) {
		return Binary{}, fmt.Errorf("this build holds no agent for linux/%s; build with make build", arch)
	}
	if err != nil {
		return Binary{}, err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		return Binary{}, fmt.Errorf("unpack the agent for linux/%s: %w", arch, err)
	}
	b.SHA256 = hex.EncodeToString(sum.Sum(nil))
	s.seen[arch] = b
	return b, nil
}
