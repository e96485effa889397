package collect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"dstack/internal/backend"
	"dstack/internal/catalog/pricelist"
)

// ErrNotPublished means that where catalogs are published there is none of a provider.
var ErrNotPublished = errors.New("it is not published")

// maxArchive bounds a published catalog, in bytes.
const maxArchive = 64 << 20

// theirName is what published catalogs call a provider.
func theirName(provider string) string {
	if provider == "lambda" {
		return "lambdalabs"
	}
	return provider
}

// published is the catalog of a source in the original's layout at a base URL (catalog 5.1):
// <provider>/version says which version is the newest, <provider>/<version>/catalog.zip is it.
func published(s Source, base string) Source {
	expect := s.expect
	expect.spot, expect.noSpot = false, false // as the publisher sees it
	return Source{Provider: s.Provider, base: strings.TrimRight(base, "/"), expect: expect, collect: func(ctx context.Context, c *session, t *tray) error {
		ctx, cancel := context.WithTimeoutCause(ctx, archiveLimit, fmt.Errorf("not whole after %v", archiveLimit))
		defer cancel()
		name := theirName(s.Provider)
		version, err := c.small(ctx, "/"+name+"/version")
		if errors.Is(err, backend.ErrNotFound) {
			return fmt.Errorf("%w: %w", ErrNotPublished, err)
		}
		if err != nil {
			return err
		}
		if version == "" || len(version) > 60 || strings.Trim(version, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "" || strings.HasPrefix(version, ".") {
			return fmt.Errorf("%w: %.60q is not a version", errStrange, version)
		}
		resp, err := c.send(ctx, http.MethodGet, "/"+name+"/"+version+"/catalog.zip", nil, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		data, err := backend.ReadBody(resp, maxArchive)
		if err != nil {
			return err
		}
		if day, err := time.Parse("20060102", version[:min(8, len(version))]); err == nil {
			if pricelist.Ahead(day.Format("2006-01-02"), c.now) {
				return fmt.Errorf("%w: version %s is of a day to come", errStrange, version)
			}
			t.asOf = day.Format("2006-01-02")
		}
		return t.list.ReadZip(data, name, t.asOf)
	}}
}

// archiveLimit is how long a whole catalog may take: some have ten megabytes.
const archiveLimit = 5 * time.Minute

// small reads a text of a few bytes.
func (s *session) small(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerLimit, fmt.Errorf("no answer in %v", answerLimit))
	defer cancel()
	text := ""
	err := s.stream(ctx, path, nil, func(r io.Reader) error {
		data, err := io.ReadAll(io.LimitReader(r, 1<<10))
		text = strings.TrimSpace(string(data))
		return err
	})
	return text, err
}
