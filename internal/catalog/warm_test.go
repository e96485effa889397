package catalog

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/offer"
)

// A backend that lets nobody ask two questions in a second, as Lambda, is in the first answer,
// which waits for nothing when the backend was asked before, and not too long ago.
func TestFirstAnswer(t *testing.T) {
	const paced = 2200 * time.Millisecond
	for name, tt := range map[string]struct {
		warm  bool
		pause time.Duration // before the first question
		took  time.Duration
	}{
		"cold":           {took: paced},
		"at once":        {warm: true, took: paced},
		"soon after":     {warm: true, pause: 2 * time.Second, took: paced - 2*time.Second},
		"warm":           {warm: true, pause: 5 * time.Second},
		"warm for long ": {warm: true, pause: time.Hour, took: paced},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, cl, _ := open(t, func(ctx context.Context, name string) ([]offer.Offer, error) {
					time.Sleep(paced)
					return one(name), nil
				})
				if tt.warm {
					if err := c.Warm(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(tt.pause)
				if got, took := names(t, c); got != "a b " || took != tt.took {
					t.Errorf("%q after %v, want both after %v", got, took, tt.took)
				}
				synctest.Wait()
				asked := cl.asked["b"]
				if err := c.Warm(t.Context()); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if cl.asked["b"] != asked {
					t.Error("a backend that was asked is asked again")
				}
			})
		})
	}
}
