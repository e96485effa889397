package ledger

import (
	"fmt"
	"testing"
	"time"
)

// TestCrowd has more intents want to ask than may: those that wait are called in the order in which they
// came, and keep their places when others are faster.
func TestCrowd(t *testing.T) {
	var c crowds
	from := func(project, account string) source { return source{Account{project, "fake"}, account} }
	enter := func(s source, id string, want bool) {
		t.Helper()
		if got := c.enter(now, s, id); got != want {
			t.Fatalf("%s enters: %v, want %v", id, got, want)
		}
	}
	leave := func(at time.Time, s source, want string) {
		t.Helper()
		if next := c.leave(at, s); next != want {
			t.Fatalf("%q is called, want %q", next, want)
		}
	}
	a, same, b := from("p", "a"), from("q", "a"), from("p", "b")
	for n := range atOnce {
		enter(a, fmt.Sprint("a", n), true)
	}
	enter(a, "first", false)
	enter(same, "second", false) // the account of another project is the same one
	leave(now, a, "first")
	enter(same, "fast", true) // before the one that was called
	enter(a, "first", false)
	leave(now, a, "first")
	enter(a, "first", true)
	leave(now, a, "second")
	enter(a, "second", true)

	for n := range ofCloud - atOnce {
		enter(b, fmt.Sprint("b", n), true)
	}
	third := from("p", "")
	enter(third, "third", false) // the cloud has no room
	enter(b, "fourth", false)
	leave(now, a, "third")
	leave(now, b, "fourth") // there is room for both
	enter(third, "third", true)
	enter(third, "fifth", true)
	enter(third, "lost", false)
	leave(now.Add(lostAfter+1), b, "") // neither comes
	if w := c.of["fake"].wait; len(w) != 0 {
		t.Errorf("%v still wait", w)
	}
}

// TestCrowdOfHangingAccounts has two accounts hold all that their provider may have, with more of theirs waiting: the
// first that ends makes room for an account that has none, though others came before.
func TestCrowdOfHangingAccounts(t *testing.T) {
	var c crowds
	from := func(account string) source { return source{Account{"p", "fake"}, account} }
	for _, account := range []string{"a", "b"} {
		for n := range atOnce {
			if !c.enter(now, from(account), fmt.Sprint(account, n)) {
				t.Fatalf("%s waits behind %d passes of its account", account, n)
			}
		}
	}
	for _, account := range []string{"a", "b", "c", "c"} {
		if id := fmt.Sprint("next of ", account, len(c.of["fake"].wait)); c.enter(now, from(account), id) {
			t.Fatalf("%s enters", id)
		}
	}
	for _, want := range []string{"next of c2", "next of c3", "next of a0", ""} {
		if next := c.leave(now, from("a")); next != want {
			t.Errorf("%q is called, want %q", next, want)
		}
	}
}
