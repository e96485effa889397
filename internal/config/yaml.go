package config

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// parseYAML reads one document as YAML 1.1 resolves it (configurations 1.2), keeping lines
// and columns.
func parseYAML(file string, data []byte) (*node, *Errors) {
	fail := func(line, col int, format string, args ...any) *Errors {
		return &Errors{[]Problem{{File: file, Line: line, Col: col, Type: "yaml", Msg: fmt.Sprintf(format, args...)}}}
	}
	if len(data) > maxBytes {
		return nil, fail(1, 1, "the file is larger than %d MiB", maxBytes>>20)
	}
	if line, col, what := foreignText(data); what != "" {
		return nil, fail(line, col, "%s", what)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return &node{kind: nullKind, line: 1, col: 1}, nil
		}
		line, col, msg := yamlError(err)
		return nil, fail(line, col, "%s", msg)
	}
	var second yaml.Node
	switch err := dec.Decode(&second); {
	case err == nil:
		return nil, fail(second.Line, second.Column, "expected a single document, but found another one")
	case !errors.Is(err, io.EOF):
		line, col, msg := yamlError(err)
		return nil, fail(line, col, "%s", msg)
	}
	c := converter{file: file, open: map[*yaml.Node]bool{}}
	n := c.node(&doc, 0)
	if len(c.problems) > 0 {
		return nil, &Errors{c.problems}
	}
	return n, nil
}

// foreignText finds the first byte that is not UTF-8, or the first character that YAML does
// not allow, and says what it is; "" for a clean text.
func foreignText(data []byte) (line, col int, what string) {
	line, col = 1, 1
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		switch {
		case r == utf8.RuneError && size == 1:
			return line, col, "the file is not UTF-8 text"
		case r == '\n':
			line, col = line+1, 0
		case r < ' ' && r != '\t' && r != '\r', r >= 0x7f && r < 0xa0 && r != 0x85, r == 0xfffe, r == 0xffff:
			return line, col, fmt.Sprintf("the character %U is not allowed", r)
		}
		col++
		data = data[size:]
	}
	return 0, 0, ""
}

// yamlError takes the library's error apart.
func yamlError(err error) (line, col int, msg string) {
	line, col, msg = 1, 1, strings.TrimPrefix(err.Error(), "yaml: ")
	if e, ok := errors.AsType[*yaml.LoadError](err); ok {
		msg = e.Message
		if e.ContextMsg != "" {
			msg = e.ContextMsg + ": " + msg
		}
		line, col = max(e.Mark.Line, 1), max(e.Mark.Column, 1)
	}
	return line, col, "invalid YAML: " + msg
}

// converter turns the library's tree into ours. Aliases are followed; the total number of
// nodes is bounded, so that a few lines cannot expand into gigabytes.
type converter struct {
	file     string
	nodes    int
	open     map[*yaml.Node]bool
	tooDeep  bool // said once
	problems []Problem
}

func (c *converter) fail(y *yaml.Node, format string, args ...any) *node {
	if len(c.problems) < 20 {
		c.problems = append(c.problems, Problem{File: c.file, Line: y.Line, Col: y.Column, Type: "yaml", Msg: fmt.Sprintf(format, args...)})
	}
	return &node{kind: nullKind, line: y.Line, col: y.Column}
}

func (c *converter) node(y *yaml.Node, depth int) *node {
	if c.nodes++; c.nodes > maxNodes {
		if c.nodes == maxNodes+1 {
			return c.fail(y, "the document has more than %d values", maxNodes)
		}
		return &node{}
	}
	if depth > maxDepth {
		if c.tooDeep {
			return &node{}
		}
		c.tooDeep = true
		return c.fail(y, "nested deeper than %d levels", maxDepth)
	}
	switch y.Kind {
	case yaml.DocumentNode:
		if len(y.Content) == 0 {
			return &node{kind: nullKind, line: 1, col: 1}
		}
		return c.node(y.Content[0], depth)
	case yaml.AliasNode:
		if c.open[y.Alias] {
			return c.fail(y, "the alias *%s contains itself", y.Value)
		}
		n := c.node(y.Alias, depth+1)
		return n
	case yaml.SequenceNode:
		if y.Tag != "!!seq" {
			return c.fail(y, "the tag %s is not supported", y.Tag)
		}
		c.open[y] = true
		defer delete(c.open, y)
		n := &node{kind: listKind, line: y.Line, col: y.Column}
		for _, item := range y.Content {
			n.list = append(n.list, c.node(item, depth+1))
		}
		return n
	case yaml.MappingNode:
		c.open[y] = true
		defer delete(c.open, y)
		switch y.Tag {
		case "!!map":
			return c.mapping(y, depth)
		case "!!set":
			return c.set(y, depth)
		}
		return c.fail(y, "the tag %s is not supported", y.Tag)
	case yaml.ScalarNode:
		return c.scalar(y)
	}
	return c.fail(y, "unexpected YAML")
}

func (c *converter) mapping(y *yaml.Node, depth int) *node {
	n := newMap()
	n.line, n.col = y.Line, y.Column
	type merge struct {
		key   *yaml.Node
		value *node
	}
	var merges []merge
	for i := 0; i+1 < len(y.Content); i += 2 {
		k, v := y.Content[i], y.Content[i+1]
		if k.Kind == yaml.ScalarNode && k.Value == "<<" && k.Style == 0 {
			merges = append(merges, merge{k, c.node(v, depth+1)})
			continue
		}
		key := c.node(k, depth+1)
		switch key.kind {
		case listKind, mapKind:
			return c.fail(k, "a list or mapping cannot be a key")
		}
		text := k.Value // as written, so that problems name on: and not True
		if k.Kind == yaml.AliasNode {
			text = key.scalarText()
		}
		if n.values[text] != nil {
			n.repeated = append(n.repeated, text)
		}
		n.set(text, c.node(v, depth+1))
		n.keyPos[text] = [2]int{k.Line, k.Column}
		if key.kind != stringKind {
			n.markOdd(text)
		}
	}
	for _, m := range merges {
		sources := []*node{m.value}
		if m.value.kind == listKind {
			sources = m.value.list
		}
		for _, src := range sources {
			if src.kind != mapKind {
				return c.fail(m.key, "a merge key needs a mapping")
			}
			for _, k := range src.keys {
				if _, own := n.values[k]; !own {
					n.set(k, src.values[k])
					n.keyPos[k] = src.keyPos[k]
				}
			}
		}
	}
	return n
}

// set reads YAML's sets, mappings without values, as lists.
func (c *converter) set(y *yaml.Node, depth int) *node {
	n := &node{kind: listKind, line: y.Line, col: y.Column}
	for i := 0; i+1 < len(y.Content); i += 2 {
		n.list = append(n.list, c.node(y.Content[i], depth+1))
	}
	return n
}

func (n *node) markOdd(key string) {
	if n.odd == nil {
		n.odd = map[string]bool{}
	}
	n.odd[key] = true
}

func (c *converter) scalar(y *yaml.Node) *node {
	n := &node{kind: stringKind, text: y.Value, line: y.Line, col: y.Column}
	quoted := y.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
	if y.Style&yaml.TaggedStyle != 0 {
		switch y.Tag {
		case "!!str":
			return n
		case "!!binary":
			data, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(y.Value), ""))
			if err != nil || !utf8.Valid(data) {
				return c.fail(y, "!!binary needs the base64 form of a text")
			}
			n.text = string(data)
			return n
		case "!!int", "!!float", "!!bool", "!!null":
		default:
			return c.fail(y, "the tag %s is not supported", y.Tag)
		}
	} else if quoted {
		return n
	}
	if len(y.Value) > maxDigits && allDigits(strings.TrimLeft(y.Value, "+-")[:1]) && strings.Trim(y.Value, "+-0123456789abcdefABCDEFx_:.") == "" {
		return c.fail(y, "a number of more than %d digits", maxDigits)
	}
	resolve(n, y.Value)
	return n
}
