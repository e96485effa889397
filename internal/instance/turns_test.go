package instance

import "testing"

// TestTurns has three wait for one turn: they are called in order, also past one that needs it no more
// or is looked at elsewhere.
func TestTurns(t *testing.T) {
	turns := newTurns(1)
	if !turns.take("a") {
		t.Error("a has no turn though nobody has one")
	}
	for _, id := range []string{"b", "c", "d", "e"} {
		if turns.take(id) {
			t.Errorf("%s has a turn beside a", id)
		}
	}
	if next := turns.decline("x"); next != "" {
		t.Errorf("%q is called while a has the turn", next)
	}
	if next := turns.give(); next != "b" {
		t.Errorf("after a %q is called, want b", next)
	}
	turns.lost(func(id string) bool { return id == "c" })
	if next := turns.decline("b"); next != "d" {
		t.Errorf("after b declined %q is called, want d", next)
	}
	if !turns.take("d") || turns.take("e") {
		t.Error("d has no turn, or e has one beside it")
	}
	if next := turns.give(); next != "e" {
		t.Errorf("after d %q is called, want e", next)
	}
}

// TestTurnsKeepPlaces has those who wait ask again, as they do with every sweep, and one that is called come too
// late: nobody loses a place by it, and what is free is not kept for one that does not come.
func TestTurnsKeepPlaces(t *testing.T) {
	turns := newTurns(2)
	for _, id := range []string{"a", "b"} {
		turns.take(id)
	}
	for _, id := range []string{"c", "d", "e", "d", "c"} {
		turns.take(id)
	}
	if next := turns.give(); next != "c" {
		t.Errorf("after a %q is called, want c, which came first", next)
	}
	if next := turns.give(); next != "d" {
		t.Errorf("after b %q is called, want d: c is on its way", next)
	}
	if !turns.take("x") || !turns.take("y") || turns.take("c") {
		t.Error("x and y, which asked in between, have no turn, or c has one beside them")
	}
	if next := turns.give(); next != "c" {
		t.Errorf("after x %q is called, want c again", next)
	}
	if next := turns.give(); next != "e" {
		t.Errorf("after y %q is called, want e: c and d are on their way", next)
	}
}
