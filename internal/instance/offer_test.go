package instance

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/scheduler"
)

// TestNext follows an instance from offer to offer until it gets one or is given up.
func TestNext(t *testing.T) {
	const help = "\nSee https://dstack.ai/docs/guides/troubleshooting/#provisioning-fails"
	refusal := func(n int, text string) Machine { return Machine{Refused: true, Message: fmt.Sprintf(text, n)} }
	apart := func(_ int, text string) Machine { return Machine{Refused: true, Apart: true, Message: text} }
	never := func(int) Machine { return Machine{Refused: true, Message: "no capacity"} }
	for name, tt := range map[string]struct {
		offers  int
		limit   int
		outcome func(n int) Machine // of the n-th attempt; created ends
		tried   int
		blocks  int    // 0: 1
		want    string // message, "" when it gets one
	}{
		"none can be divided": {offers: 2, blocks: 4, outcome: never, want: "The CPUs and GPUs of none of the 2 offers that fit in fleet 'f' can be divided into 4 `blocks`."},
		"all can":             {offers: 1, blocks: 2, tried: 1, outcome: func(int) Machine { return Machine{} }},
		"nothing fits":        {offers: 0, outcome: never, want: "No offers matching the run requirements in fleet 'f'." + help},
		"the third is had":    {offers: 5, tried: 3, outcome: func(n int) Machine { return Machine{Refused: n < 3} }},
		"none is had": {offers: 2, tried: 2, outcome: func(n int) Machine { return refusal(n, "no %d") },
			want: "Failed to provision in fleet 'f': tried 2 of 2 offers, all failed.\nErrors: m0 in b/r: no 1; m1 in b/r: no 2." + help},
		"for the same reason, told thrice": {offers: 6, tried: 6, outcome: never,
			want: "Failed to provision in fleet 'f': tried 6 of 6 offers, all failed.\nErrors: m0 in b/r: no capacity; m1 in b/r: no capacity; m2 in b/r: no capacity; and 3 more." + help},
		"not for ever": {offers: 30, tried: 25, outcome: never,
			want: "Failed to provision in fleet 'f': tried 25 of 30 offers (attempt limit reached), all failed.\nErrors: m0 in b/r: no capacity; m1 in b/r: no capacity; m2 in b/r: no capacity; and 22 more." + help},
		"nor longer than is set": {offers: 30, limit: 2, tried: 2, outcome: never,
			want: "Failed to provision in fleet 'f': tried 2 of 30 offers (attempt limit reached), all failed.\nErrors: m0 in b/r: no capacity; m1 in b/r: no capacity." + help},
		"what cannot be in the group does not count": {offers: 30, limit: 2, tried: 30, outcome: func(n int) Machine { return apart(n, "no compatible placement group") },
			want: "None of the 30 offers in fleet 'f' could be tried: no compatible placement group." + help},
		"but is not asked without end": {offers: 200, tried: maxSkipped, outcome: func(n int) Machine { return apart(n, "no compatible placement group") },
			want: "None of the 200 offers in fleet 'f' could be tried: no compatible placement group." + help},
		"some of both": {offers: 3, tried: 3, outcome: func(n int) Machine {
			if n == 2 {
				return refusal(n, "no %d")
			}
			return apart(n, "no compatible placement group")
		}, want: "Failed to provision in fleet 'f': tried 1 of 3 offers, all failed.\nErrors: m1 in b/r: no 2." + help},
	} {
		t.Run(name, func(t *testing.T) {
			var offers []api.InstanceOffer
			for n := range tt.offers {
				offers = append(offers, api.InstanceOffer{Backend: "b", Region: "r", Price: float64(n), Availability: api.Available,
					Instance: api.InstanceType{Name: fmt.Sprint("m", n), Resources: api.Resources{CPUs: 2, MemoryMiB: 8192, Disk: api.Disk{SizeMiB: 102400}}}})
			}
			ask := scheduler.Ask{Requirements: api.Requirements{Resources: config.Resources{CPU: config.CPU{Count: config.Between(1, -1)}, Memory: config.AtLeast(0)}}}
			s := Snapshot{Instance: Instance{Name: "f-0", Status: api.InstancePending, Blocks: max(1, tt.blocks)}}
			tried := 0
			for {
				d := Step(start, s)
				if cmp.Diff([]Effect{Provision}, d.Effects) != "" {
					if !s.Machine.Created {
						t.Fatalf("effects %v, want to provision", d.Effects)
					}
					break
				}
				o, ok := d.next(start, ask, offers, tt.limit)
				if s.Instance = d.Instance; !ok {
					break
				}
				tried++
				s.Instance.IntentID, s.Instance.Data.Offer = "i", &o
				s.Instance.Data.Tried = append(s.Instance.Data.Tried, scheduler.OfferKey(o))
				if s.Machine = tt.outcome(tried); !s.Machine.Refused {
					s.Machine.Created = true
				}
			}
			if tried != tt.tried {
				t.Errorf("%d offers were tried, want %d", tried, tt.tried)
			}
			if diff := cmp.Diff(tt.want, s.Instance.Data.Message); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
			if ended := s.Instance.Status == api.InstanceTerminated; ended != (tt.want != "") || ended && s.Instance.Data.Reason != api.InstanceNoOffers {
				t.Errorf("%s, %s", s.Instance.Status, s.Instance.Data.Reason)
			}
		})
	}
}

func TestShort(t *testing.T) {
	if got := Short("a\n  b\t" + strings.Repeat("ü", 300) + ": disk full"); got != "a b "+strings.Repeat("ü", 96)+"..."+strings.Repeat("ü", 89)+": disk full" {
		t.Errorf("short = %q", got)
	}
}
