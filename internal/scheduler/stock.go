package scheduler

import "unique"

// A Stock is a list of hosts with what they have in common found once, as an [Index] is of offers: a look at
// ten thousand hosts asks the rules about the few kinds that there are, and looks the answers up. It is safe
// for concurrent use; nobody changes the list.
type Stock struct {
	hosts []*Host
	kinds []int            // one host of each
	kind  []uint32         // of each host
	free  []int            // blocks of each host that nobody has
	of    map[string][]int // the hosts of each fleet
}

// NewStock is the stock of hosts by fleet.
func NewStock(hosts []*Host) *Stock {
	s := &Stock{hosts: hosts, kind: make([]uint32, len(hosts)), free: make([]int, len(hosts)), of: map[string][]int{}}
	all, kinds := make([]int, len(hosts)), map[unique.Handle[string]]uint32{}
	for i, h := range hosts {
		all[i] = i
		if h.Ready {
			s.free[i] = h.Blocks - h.Busy
		}
		n, known := kinds[h.Key]
		if !known || h.Key == (unique.Handle[string]{}) {
			n = uint32(len(s.kinds))
			kinds[h.Key], s.kinds = n, append(s.kinds, i)
		}
		s.kind[i] = n
	}
	for begin := 0; begin < len(all); {
		fleet, end := hosts[begin].Fleet, begin+1
		for end < len(all) && hosts[end].Fleet == fleet {
			end++
		}
		if list := s.of[fleet]; list == nil {
			s.of[fleet] = all[begin:end:end]
		} else {
			s.of[fleet] = append(list, all[begin:end]...)
		}
		begin = end
	}
	return s
}

// price is that of a host: of its kind, so that a look at many hosts reads few of them.
func (s *Stock) price(host int) float64 { return s.hosts[s.kinds[s.kind[host]]].Offer.Price }
