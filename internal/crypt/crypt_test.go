package crypt

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

func key(t *testing.T, name string) Key {
	t.Helper()
	secret, err := base64.StdEncoding.DecodeString(NewSecret())
	if err != nil {
		t.Fatal(err)
	}
	return Key{name, secret}
}

func box(t *testing.T, keys ...Key) *Box {
	t.Helper()
	b, err := New(keys)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func seal(t *testing.T, b *Box, plain string) string {
	t.Helper()
	sealed, err := b.Seal(plain)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func TestRotation(t *testing.T) {
	old, young, other := key(t, "old"), key(t, "young"), key(t, "other")
	identity := Key{}
	for name, c := range map[string]struct {
		sealed, opened []Key
		prefix         string
		err            error
	}{
		"no keys":                      {nil, nil, "enc:identity:noname:", nil},
		"one key":                      {[]Key{old}, []Key{old}, "enc:aes:old:", nil},
		"a new key in front":           {[]Key{old}, []Key{young, old}, "enc:aes:old:", nil},
		"the new key seals":            {[]Key{young, old}, []Key{young}, "enc:aes:young:", nil},
		"the old key is gone":          {[]Key{old}, []Key{young}, "enc:aes:old:", ErrSealed},
		"no keys any more":             {[]Key{old}, nil, "enc:aes:old:", ErrSealed},
		"encryption begins":            {nil, []Key{old}, "enc:identity:noname:", nil},
		"identity in front":            {[]Key{identity, old}, []Key{old}, "enc:identity:noname:", nil},
		"identity in front opens aes":  {[]Key{old}, []Key{identity, old}, "enc:aes:old:", nil},
		"identity behind does nothing": {[]Key{old, identity}, []Key{other, old}, "enc:aes:old:", nil},
		"a key under another name":     {[]Key{old}, []Key{{"renamed", old.Secret}}, "enc:aes:old:", nil},
	} {
		t.Run(name, func(t *testing.T) {
			for _, plain := range []string{"", "hunter2", "with:colons:in:it", "ünïcode\n", strings.Repeat("x", 1<<16)} {
				sealed := seal(t, box(t, c.sealed...), plain)
				if !strings.HasPrefix(sealed, c.prefix) {
					t.Errorf("Seal = %.40s…, want %s…", sealed, c.prefix)
				}
				got, err := box(t, c.opened...).Open(sealed)
				if !errors.Is(err, c.err) || c.err == nil && got != plain {
					t.Errorf("Open = %.20q, %v, want %.20q, %v", got, err, plain, c.err)
				}
			}
		})
	}
}

func TestSealIsNotPlain(t *testing.T) {
	b := box(t, key(t, "k"))
	one, two := seal(t, b, "hunter2"), seal(t, b, "hunter2")
	if one == two {
		t.Error("the same text sealed twice is the same: nonces repeat")
	}
	if strings.Contains(one, "hunter2") {
		t.Errorf("the text can be read: %s", one)
	}
}

// A text sealed by the published server, whose format this is.
func TestOpenForeign(t *testing.T) {
	b := box(t, Key{"key1", []byte("0123456789abcdef0123456789abcdef")})
	got, err := b.Open("enc:aes:key1://UL69Ndb5Esox0y7z/UF3RSCAX+XDzyKtaviT+cuROejmo=")
	if err != nil || got != "hunter2" {
		t.Errorf("Open = %q, %v", got, err)
	}
}

func TestOpenDamaged(t *testing.T) {
	b := box(t, key(t, "k"))
	good := seal(t, b, "hunter2")
	flipped := []byte(good)
	flipped[len(flipped)-3] ^= 1
	for _, sealed := range []string{"", "hunter2", "enc", "enc:aes:k", "enc:aes:k:", "enc:aes:k:!!", "enc:aes:k:AAAA", "enc:other:k:AAAA", good[:len(good)-8], string(flipped)} {
		if got, err := b.Open(sealed); !errors.Is(err, ErrSealed) {
			t.Errorf("Open(%q) = %q, %v, want ErrSealed", sealed, got, err)
		}
	}
}

func TestBadKeys(t *testing.T) {
	for _, n := range []int{0, 16, 31, 33} {
		if _, err := New([]Key{{"k", make([]byte, n)}}); err == nil {
			t.Errorf("a key of %d bytes was taken", n)
		}
	}
}

func FuzzOpen(f *testing.F) {
	b, err := New([]Key{{"k", make([]byte, 32)}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("enc:aes:k:AAAA")
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := b.Open(s); err != nil && !errors.Is(err, ErrSealed) {
			t.Errorf("Open(%q): %v", s, err)
		}
	})
}
