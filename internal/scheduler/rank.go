package scheduler

import "dstack/internal/api"

// rank is the price by which an offer has its place.
func rank(o *api.InstanceOffer) float64 { return o.Price * (1 + o.Penalty) }
