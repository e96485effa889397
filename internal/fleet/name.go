package fleet

import (
	"context"
	"fmt"
	"math/rand/v2"

	"dstack/internal/store"
)

// GeneratedName makes adjective-animal.
func GeneratedName() string {
	adjectives := []string{"brave", "calm", "clever", "eager", "fair", "gentle", "happy", "kind", "lively", "lucky", "proud", "quick", "quiet", "sharp", "swift", "warm", "wise", "bold", "bright", "tidy"}
	animals := []string{"badger", "crane", "dolphin", "eagle", "falcon", "fox", "gecko", "heron", "ibex", "jaguar", "koala", "lynx", "marten", "newt", "otter", "panda", "raven", "seal", "tiger", "wolf"}
	return adjectives[rand.IntN(len(adjectives))] + "-" + animals[rand.IntN(len(animals))]
}

// FreeName makes a name that is not taken: there are only 400 of two words.
func FreeName(taken func(name string) (bool, error)) (string, error) {
	for n := 1; ; n++ {
		name := GeneratedName()
		if n > 20 {
			name = fmt.Sprintf("%s-%d", name, n)
		}
		if is, err := taken(name); err != nil {
			return "", fmt.Errorf("look for a free name: %w", err)
		} else if !is {
			return name, nil
		}
	}
}

// named says that a fleet of a project has a name.
func named(ctx context.Context, q store.Querier, projectID, name string) (bool, error) {
	var n int
	err := q.QueryRowContext(ctx, `SELECT count(*) FROM fleet WHERE NOT deleted AND project_id = $1 AND name = $2`, projectID, name).Scan(&n)
	return n > 0, err
}
