package config

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// bomb is ten levels of ten aliases each: 10¹⁰ values.
func bomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x]\n")
	for i := range 10 {
		from := fmt.Sprintf("*a%d", i)
		fmt.Fprintf(&b, "a%d: &a%d [%s%s]\n", i+1, i+1, strings.Repeat(from+", ", 9), from)
	}
	return b.String()
}

// What files hold besides configurations: every one is read or refused with a place, fast.
func TestBytes(t *testing.T) {
	for name, tt := range map[string]struct{ doc, want string }{
		"byte order mark":          {"\ufefftype: task\ncommands: [a]\n", ""},
		"CRLF":                     {"type: task\r\ncommands:\r\n  - a\r\n", ""},
		"CR":                       {"type: task\rcommands:\r  - a\r", ""},
		"no line break at the end": {"type: task\ncommands: [a]", ""},
		"tab as indent":            {"type: task\ncommands:\n\t- a\n", "f:3:1: invalid YAML: while scanning for the next token: found character that cannot start any token"},
		"tab in text":              {"type: task\ncommands: [\"a\tb\"]\n", ""},
		"merge key":                {"type: task\n<<: {commands: [a]}\n", ""},
		"merge list":               {"type: task\n<<: [{commands: [a]}, {image: x}]\n", ""},
		"merge key overridden":     {"type: task\n<<: {commands: [1, 2], image: y}\ncommands: [a]\nimage: null\n", ""},
		"merge of a scalar":        {"type: task\n<<: x\ncommands: [a]\n", "f:2:1: a merge key needs a mapping"},
		"alias":                    {"type: task\ncommands: &c [a]\nsetup: *c\n", ""},
		"unknown alias":            {"type: task\ncommands: *c\n", "f:2:11: invalid YAML: unknown anchor 'c' referenced"},
		"alias of itself":          {"type: task\ncommands: &c [*c]\n", "f:2:15: the alias *c contains itself"},
		"alias bomb":               {bomb(), "f:1:5: the document has more than 200000 values"},
		"merge bomb": {"type: task\na: &a {x: 1}\nb: &b {<<: [*a, *a, *a]}\nc: {<<: [*b, *b]}\n", "f:2:1: task.a: Extra inputs are not permitted\n" +
			"f:3:1: task.b: Extra inputs are not permitted\n" +
			"f:4:1: task.c: Extra inputs "},
		"key twice":              {"type: task\ncommands: [a]\ncommands: [b]\n", ""},
		"deep list":              {"type: task\ncommands: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "\n", "f:2:111: nested deeper than 100 levels"},
		"deep map":               {"type: task\ncommands: " + strings.Repeat("{a: ", 5000) + strings.Repeat("}", 5000) + "\n", "f:2:408: nested deeper than 100 levels"},
		"deep blocks":            {"type: task\nx:\n" + deepBlocks(500), "f:102:101: nested deeper than 100 levels"},
		"unclosed":               {strings.Repeat("[", 100000), "f:1:10001: invalid YAML: while increasing flow level: exceeded max depth of 10000"},
		"many values":            {"type: task\ncommands: [" + strings.Repeat("a,", 300000) + "]\n", "f:2:400000: the document has more than 200000 values"},
		"ten MB":                 {"type: task\ncommands: [a]\n" + strings.Repeat("#"+strings.Repeat("x", 99)+"\n", 100000), "f:1:1: the file is larger than 4 MiB"},
		"long number":            {"type: task\npriority: " + strings.Repeat("1", 1000000) + "\n", "f:2:11: a number of more than 4300 digits"},
		"long text":              {"type: task\ncommands: [a]\nmax_duration: " + strings.Repeat("x", 1000000) + "\n", "f:3:15: task.max_duration: Cannot parse the duration xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"},
		"long key":               {"type: task\ncommands: [a]\n? " + strings.Repeat("x", 1000000) + "\n: 1\n", "f:3:3: task.xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"},
		"NUL":                    {"type: task\ncommands: [\"a\x00b\"]\n", "f:2:14: the character U+0000 is not allowed"},
		"escaped NUL":            {"type: task\ncommands: [\"a\\0b\"]\n", "f:2:12: task.commands[0]: NUL characters are not allowed"},
		"not UTF-8":              {"type: task\nname: \xff\n", "f:2:7: the file is not UTF-8 text"},
		"UTF-16":                 {"\xff\xfet\x00y\x00p\x00e\x00", "f:1:1: the file is not UTF-8 text"},
		"surrogate":              {"type: task\ncommands: [\"\\ud800\"]\n", "f:2:15: invalid YAML: while scanning a quoted scalar: found invalid Unicode character escape code"},
		"two documents":          {"type: task\ncommands: [a]\n---\ntype: task\n", "f:3:1: expected a single document, but found another one"},
		"document with markers":  {"---\ntype: task\ncommands: [a]\n...\n", ""},
		"broken second document": {"type: task\ncommands: [a]\n---\n- {\n", "f:5:1: invalid YAML: while parsing a flow node: did not find expected node content"},
		"empty":                  {"", "f:1:1: Input should be a valid dictionary or object to extract fields from"},
		"white space":            {"  \n\n", "f:1:1: Input should be a valid dictionary or object to extract fields from"},
		"comment":                {"# nothing\n", "f:1:1: Input should be a valid dictionary or object to extract fields from"},
		"markers only":           {"---\n...\n", "f:2:1: Input should be a valid dictionary or object to extract fields from"},
		"scalar":                 {"hello\n", "f:1:1: Input should be a valid dictionary or object to extract fields from"},
		"list":                   {"- type: task\n", "f:1:1: Input should be a valid dictionary or object to extract fields from"},
		"map as key":             {"type: task\n{a: b}: c\n", "f:2:1: a list or mapping cannot be a key"},
		"list as key":            {"type: task\n? [a]\n: c\n", "f:2:3: a list or mapping cannot be a key"},
		"custom tag":             {"type: !x task\n", "f:1:7: the tag !x is not supported"},
		"python tag":             {"type: task\ncommands: !!python/object/apply:os.system [ls]\n", "f:2:11: the tag !!python/object/apply:os.system is not supported"},
		"tagged text":            {"type: task\ncommands: [!!str 1]\n", ""},
		"binary":                 {"type: task\ncommands: [!!binary aGk=]\n", ""},
		"bad binary":             {"type: task\ncommands: [!!binary x]\n", "f:2:12: !!binary needs the base64 form of a text"},
		"set":                    {"type: task\ncommands: !!set {a, b}\n", ""},
		"unfinished":             {"type: task\ncommands: [a\n", "f:3:1: invalid YAML: while parsing a flow sequence: did not find expected ',' or ']'"},
		"sexagesimal port":       {"type: task\ncommands: [a]\nports: [3000:22]\n", "f:3:9: task.ports[0]: Input should be less than or equal to 65535: YAML reads 3000:22 as the number 180022: quote it to "},
		"control character":      {"type: task\nname: \"\x07\"\n", "f:2:8: the character U+0007 is not allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := Parse("f", []byte(tt.doc))
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("took %v", took)
			}
			got := ""
			if err != nil {
				got = err.Error()
			}
			if len(got) > 120 {
				got = got[:120]
			}
			if got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func deepBlocks(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i+1) + "a:\n")
	}
	return b.String()
}
