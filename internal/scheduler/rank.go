package scheduler

import "dstack/internal/api"

// rank is the price by which an offer has its place. One that its backend ranks behind others comes
// where the dearest of these would: that is what a merge of lists by price gives, each of which
// keeps its order (lifecycle 7.4).
func rank(o *api.InstanceOffer) float64 { return max(o.Price, o.Floor) * (1 + o.Penalty) }
