package backend

import (
	"encoding/json"
	"slices"
	"strings"
)

// maxField is how much of a value that cannot be read is shown, in bytes.
const maxField = 40

// Fields are those of an object in a provider's answer, read one by one: what one of them has that nobody
// expects is that field's matter, and not that of the answer.
type Fields struct {
	all map[string]json.RawMessage
	// Unread are the names of those that could not be read, "" for an object that is none, and how
	// they look.
	Unread []Unread
}

// Unread is a field that could not be read.
type Unread struct{ Name, Value string }

func (u Unread) String() string {
	if u.Name == "" {
		return "it is " + u.Value
	}
	return u.Name + " is " + u.Value
}

// ReadFields begins to read an object.
func ReadFields(data []byte) *Fields {
	f := &Fields{}
	if err := json.Unmarshal(data, &f.all); err != nil || f.all == nil {
		f.note("", data)
	}
	return f
}

// Take reads a field, if there is one; into stays as it is when it cannot be read.
func Take[T any](f *Fields, name string, into *T) {
	data, ok := f.all[name]
	if !ok {
		return
	}
	var v T
	if err := json.Unmarshal(data, &v); err != nil {
		f.note(name, data)
		return
	}
	*into = v
}

// TakeAll is Take for a list: those of its elements that can be read.
func TakeAll[T any](f *Fields, name string, into *[]T) {
	var all []json.RawMessage
	Take(f, name, &all)
	for _, data := range all {
		var v T
		if err := json.Unmarshal(data, &v); err != nil {
			f.note(name, data)
			continue
		}
		*into = append(*into, v)
	}
}

// Lacks says that one of some fields could not be read.
func (f *Fields) Lacks(names ...string) bool {
	return slices.ContainsFunc(f.Unread, func(u Unread) bool { return u.Name == "" || slices.Contains(names, u.Name) })
}

// Within notes what could not be read of an object that is a field.
func (f *Fields) Within(name string, unread []Unread) {
	for _, u := range unread {
		f.Unread = append(f.Unread, Unread{strings.TrimSuffix(name+"."+u.Name, "."), u.Value})
	}
}

func (f *Fields) note(name string, data []byte) {
	f.Unread = append(f.Unread, Unread{name, Printable(string(data[:min(len(data), maxField)]))})
}
