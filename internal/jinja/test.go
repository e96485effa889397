package jinja

import "strings"

// tests are what may stand behind "is".
var tests map[string]func(e *exec, v any, a args) bool

func init() {
	by := func(op string) func(e *exec, v any, a args) bool {
		return func(e *exec, v any, a args) bool { return e.holds(op, v, e.operand(a)) }
	}
	is := func(kinds ...string) func(e *exec, v any, a args) bool {
		return func(_ *exec, v any, _ args) bool {
			for _, k := range kinds {
				if kind(v) == k {
					return true
				}
			}
			return false
		}
	}
	tests = map[string]func(e *exec, v any, a args) bool{
		"defined":   func(_ *exec, v any, _ args) bool { _, missing := v.(undefined); return !missing },
		"undefined": func(_ *exec, v any, _ args) bool { _, missing := v.(undefined); return missing },
		"none":      is("none"),
		"boolean":   is("boolean"),
		"true":      func(_ *exec, v any, _ args) bool { return v == true },
		"false":     func(_ *exec, v any, _ args) bool { return v == false },
		"number":    is("number", "boolean"),
		"integer":   func(_ *exec, v any, _ args) bool { _, ok := v.(int64); return ok },
		"float":     func(_ *exec, v any, _ args) bool { _, ok := v.(float64); return ok },
		"string":    is("string"),
		"mapping":   is("mapping"),
		"sequence":  is("string", "list", "tuple", "mapping", "value that is undefined"),
		"iterable":  is("string", "list", "tuple", "mapping", "value that is undefined"),
		"callable":  is("function"),
		"lower": func(e *exec, v any, _ args) bool {
			s := e.text(v)
			return s == e.mapText(s, strings.ToLower) && s != ""
		},
		"upper": func(e *exec, v any, _ args) bool {
			s := e.text(v)
			return s == e.mapText(s, strings.ToUpper) && s != ""
		},
		"odd":  func(e *exec, v any, _ args) bool { return e.remainder(v, int64(2)) == int64(1) },
		"even": func(e *exec, v any, _ args) bool { return e.remainder(v, int64(2)) == int64(0) },
		"divisibleby": func(e *exec, v any, a args) bool {
			n, ok := toInt(e.remainder(v, e.operand(a)))
			return ok && n == 0
		},
		"sameas": func(e *exec, v any, a args) bool {
			w := e.operand(a)
			return kind(v) == kind(w) && e.equal(v, w, 0)
		},
		"in": by("in"),
		"eq": by("=="), "equalto": by("=="), "ne": by("!="),
		"lt": by("<"), "lessthan": by("<"), "le": by("<="),
		"gt": by(">"), "greaterthan": by(">"), "ge": by(">="),
	}
	// selectattr and the like take the signs too.
	for sign, word := range map[string]string{"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"} {
		tests[sign] = tests[word]
	}
}

// operand is a test's one argument.
func (e *exec) operand(a args) any {
	if len(a.list) != 1 {
		e.fail("a test takes one argument")
	}
	return a.list[0]
}

func (e *exec) remainder(v, by any) any { return e.arithmetic("%", v, by) }
