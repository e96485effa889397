package jinja

// stmt is a statement, expr an expression: what the parser makes, and exec works off.
type (
	stmt interface{}
	expr interface{}
)

// Statements.
type (
	write struct{ text string }
	print struct{ value expr }
	// assign has several names for a tuple, or one that may be an attribute of a namespace.
	assign struct {
		line  int
		to    []target
		value expr
	}
	// capture assigns what its body prints.
	capture struct {
		line    int
		to      target
		body    []stmt
		filters func(inner expr) expr
	}
	branch struct {
		cond       expr
		then, orNo []stmt
	}
	loop struct {
		line       int
		vars       []string
		in, filter expr
		body, none []stmt
	}
	jump     struct{ again bool } // continue, or break
	defMacro struct {
		name   string
		params []param
		body   []stmt
	}
	with struct {
		names  []string
		values []expr
		body   []stmt
	}
	filtered struct {
		body    []stmt
		filters func(inner expr) expr
	}
)

type target struct{ name, attr string }

type param struct {
	name string
	def  expr // nil: none
}

// Expressions.
type (
	constant struct{ value any }
	variable struct {
		line int
		name string
	}
	listOf struct {
		items []expr
		tuple bool
	}
	dictOf struct {
		line         int
		keys, values []expr
	}
	attribute struct {
		line int
		of   expr
		name string
	}
	index struct {
		line   int
		of, at expr
	}
	slice struct {
		line           int
		of             expr
		from, to, step expr // nil: none
	}
	call struct {
		line int
		of   expr
		args arguments
	}
	filter struct {
		line int
		name string
		of   expr
		args arguments
	}
	test struct {
		line   int
		name   string
		of     expr
		args   arguments
		negate bool
	}
	unary struct {
		line int
		op   string
		of   expr
	}
	binary struct {
		line        int
		op          string
		left, right expr
	}
	// compare is a chain: a < b < c.
	compare struct {
		line  int
		first expr
		ops   []string
		rest  []expr
	}
	choice struct{ cond, then, orNo expr } // orNo nil: undefined
)

type arguments struct {
	list  []expr
	names []string
	named []expr
	// more and moreNamed are a list and a dict of further ones: f(*more, **moreNamed); nil for none.
	more, moreNamed expr
}
