package jinja

import (
	"math"
	"math/bits"
	"strings"
)

func (e *exec) unary(op string, of any) any {
	if op == "not" {
		return !truth(of)
	}
	sign := int64(1)
	if op == "-" {
		sign = -1
	}
	if n, ok := toInt(of); ok {
		return sign * n
	}
	f, ok := of.(float64)
	if !ok {
		e.refuse(op, of)
	}
	return float64(sign) * f
}

// refuse says that an operator does not take a value.
func (e *exec) refuse(op string, values ...any) {
	for _, v := range values {
		if u, ok := v.(undefined); ok {
			e.fail("%s is undefined", u.what)
		}
	}
	if len(values) == 1 {
		e.fail("'%s' does not take a %s", op, kind(values[0]))
	}
	e.fail("'%s' does not take a %s and a %s", op, kind(values[0]), kind(values[1]))
}

func (e *exec) binary(x binary, s *scope) any {
	left := e.eval(x.left, s)
	switch {
	case x.op == "or" && truth(left), x.op == "and" && !truth(left):
		return left
	}
	right := e.eval(x.right, s)
	e.line = x.line
	switch x.op {
	case "or", "and":
		return right
	case "~":
		a, b := e.text(left), e.text(right)
		e.grow(len(a) + len(b))
		return a + b
	case "+":
		return e.plus(left, right)
	case "*":
		return e.times(left, right)
	}
	return e.arithmetic(x.op, left, right)
}

func (e *exec) plus(left, right any) any {
	switch a := left.(type) {
	case string:
		if b, ok := right.(string); ok {
			e.grow(len(a) + len(b))
			return a + b
		}
	case *list:
		if b, ok := right.(*list); ok && a.tuple == b.tuple {
			e.grow(valueSize * (len(a.items) + len(b.items)))
			items := make([]any, 0, len(a.items)+len(b.items))
			return &list{append(append(items, a.items...), b.items...), a.tuple}
		}
	}
	return e.arithmetic("+", left, right)
}

func (e *exec) times(left, right any) any {
	for _, pair := range [][2]any{{left, right}, {right, left}} {
		n, ok := toInt(pair[1])
		if !ok {
			continue
		}
		n = min(max(n, 0), maxBytes+1)
		switch v := pair[0].(type) {
		case string:
			e.grow(len(v) * int(n))
			return strings.Repeat(v, int(n))
		case *list:
			e.grow(valueSize * len(v.items) * int(n))
			items := make([]any, 0, len(v.items)*int(n))
			for range n {
				if len(v.items) == 0 {
					break
				}
				items = append(items, v.items...)
			}
			return &list{items, v.tuple}
		}
	}
	return e.arithmetic("*", left, right)
}

func (e *exec) arithmetic(op string, left, right any) any {
	n, whole := toInt(left)
	m, both := toInt(right)
	if whole && both && op != "/" && (op != "**" || m >= 0) {
		return e.integers(op, n, m)
	}
	a, ok1 := toFloat(left)
	b, ok2 := toFloat(right)
	if !ok1 || !ok2 {
		e.refuse(op, left, right)
	}
	switch op {
	case "+":
		return a + b
	case "-":
		return a - b
	case "*":
		return a * b
	case "**":
		return math.Pow(a, b)
	}
	if b == 0 {
		e.fail("division by zero")
	}
	switch op {
	case "/":
		return a / b
	case "//":
		return math.Floor(a / b)
	}
	return a - b*math.Floor(a/b)
}

// integers calculates without fractions; what does not fit into 64 bits is an error.
func (e *exec) integers(op string, a, b int64) any {
	switch op {
	case "+":
		if sum := a + b; (sum > a) == (b > 0) {
			return sum
		}
	case "-":
		if diff := a - b; (diff < a) == (b > 0) {
			return diff
		}
	case "*":
		if p, ok := product(a, b); ok {
			return p
		}
	case "**":
		result := int64(1)
		for range min(b, 64) {
			p, ok := product(result, a)
			if !ok {
				e.fail("a number is too large")
			}
			result = p
		}
		if b <= 64 || a == 0 || a == 1 {
			return result
		}
		if a == -1 {
			return 1 - 2*(b%2)
		}
	case "//", "%":
		if b == 0 {
			e.fail("division by zero")
		}
		if a == math.MinInt64 && b == -1 {
			break
		}
		q, r := a/b, a%b
		if r != 0 && (r < 0) != (b < 0) {
			q, r = q-1, r+b
		}
		if op == "//" {
			return q
		}
		return r
	}
	e.fail("a number is too large")
	return nil
}

func product(a, b int64) (int64, bool) {
	hi, lo := bits.Mul64(magnitude(a), magnitude(b))
	if hi != 0 || lo > math.MaxInt64 {
		return 0, false
	}
	return a * b, true
}

func magnitude(n int64) uint64 {
	if n < 0 {
		return -uint64(n)
	}
	return uint64(n)
}

func (e *exec) compare(x compare, s *scope) any {
	left := e.eval(x.first, s)
	for i, op := range x.ops {
		right := e.eval(x.rest[i], s)
		e.line = x.line
		if !e.holds(op, left, right) {
			return false
		}
		left = right
	}
	return true
}

func (e *exec) holds(op string, left, right any) bool {
	switch op {
	case "==":
		return e.equal(left, right, 0)
	case "!=":
		return !e.equal(left, right, 0)
	case "in":
		return e.contains(right, left)
	case "not in":
		return !e.contains(right, left)
	}
	n := e.order(left, right, 0)
	switch op {
	case "<":
		return n < 0
	case "<=":
		return n <= 0
	case ">":
		return n > 0
	}
	return n >= 0
}

func (e *exec) contains(in, v any) bool {
	switch in := in.(type) {
	case string:
		s, ok := v.(string)
		if !ok {
			e.refuse("in", v, in)
		}
		e.step(len(in) >> 4)
		return strings.Contains(in, s)
	case *dict:
		_, ok := in.get(v)
		return ok
	case *list:
		for _, item := range in.items {
			if e.equal(item, v, 0) {
				return true
			}
		}
		return false
	case undefined:
		return false
	}
	e.refuse("in", v, in)
	return false
}
