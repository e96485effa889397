package repo

import (
	"archive/tar"
	"errors"
	"io"
	"path"
	"strings"

	"dstack/internal/api"
)

// isSHA256 says that a name can only be a hash: 64 hexadecimal digits.
func isSHA256(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// checkContent refuses an upload whose name is another content's hash: runs would find it
// under a name that somebody else relies on.
func checkContent(name, sum string) error {
	if isSHA256(name) && name != sum {
		return api.Invalid("file: the name says that the SHA-256 of the content is %s, but it is %s", name, sum)
	}
	return nil
}

// checkArchive refuses what is no tar and what would be unpacked outside of its place.
func checkArchive(r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return api.Invalid("file: not a tar archive: %v", err)
		}
		if escapes(h.Name) {
			return api.Invalid("file: entry %q leads out of the archive", h.Name)
		}
		switch h.Typeflag {
		case tar.TypeReg, tar.TypeDir, tar.TypeXGlobalHeader:
		case tar.TypeSymlink:
		case tar.TypeLink:
			if escapes(h.Linkname) {
				return api.Invalid("file: entry %q links to %q, out of the archive", h.Name, h.Linkname)
			}
		default:
			return api.Invalid("file: entry %q is neither a file nor a folder nor a link", h.Name)
		}
	}
}

// escapes says that a path of an archive is absolute or leads above it.
func escapes(name string) bool {
	return path.IsAbs(name) || name == ".." || strings.HasPrefix(path.Clean(name), "../") || path.Clean(name) == ".."
}
