package shim

import (
	"context"
	"errors"
	"sync"
	"time"

	"dstack/internal/agent/dcgm"
	"dstack/internal/agentapi"
)

// DCGM says where NVIDIA's programs are; the zero value is what is usual.
type DCGM struct {
	Engine   string        // address of a host engine, "": the one on this host
	Port     int           // of the exporter, 0: dcgm.OwnPort
	Interval time.Duration // at which the exporter looks at the GPUs, 0: dcgm.Interval
}

// dcgmSource asks DCGM for the listeners of streams.
type dcgmSource struct {
	doctor   dcgm.Doctor
	exporter *dcgm.Exporter

	mu   sync.Mutex
	said string // why there is no health, as it was logged
}

func newDCGM(c Config) *dcgmSource {
	return &dcgmSource{
		doctor:   dcgm.Doctor{Address: c.DCGM.Engine},
		exporter: dcgm.NewExporter(dcgm.ExporterConfig{Dir: c.Home, Port: c.DCGM.Port, Interval: c.DCGM.Interval, Engine: c.DCGM.Engine, Log: c.Log}),
	}
}

// taskText is what DCGM measures of a task's GPUs.
type taskText struct {
	task   string
	packed []byte
}

// grant brings what a listener wishes until end is called. On hosts without GPUs of NVIDIA that is
// nothing.
func (s *Shim) grant(wish agentapi.Wish) (checks <-chan agentapi.Health, texts <-chan []taskText, end func()) {
	if s.gpuVendor() != "nvidia" {
		return nil, nil, func() {}
	}
	ctx, cancel := context.WithCancel(s.ctx)
	var wg sync.WaitGroup
	if wish.Health > 0 {
		found := make(chan agentapi.Health)
		checks = found
		wg.Go(func() { s.check(ctx, wish.Health, found) })
	}
	if wish.DCGM {
		found := make(chan []taskText)
		texts = found
		wg.Go(func() { s.measure(ctx, found) })
	}
	return checks, texts, func() {
		cancel()
		wg.Wait()
	}
}

// check looks at the health of the GPUs now and then. That nothing on the host checks them is told
// once; a check that fails says nothing about GPUs, so nothing is told.
func (s *Shim) check(ctx context.Context, every time.Duration, found chan<- agentapi.Health) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	absent := false
	for {
		h, err := s.dcgm.doctor.Check(ctx)
		news := agentapi.Health{DCGM: &h}
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, dcgm.ErrAbsent):
			news.DCGM = nil
		}
		if s.say(err); err == nil || news.DCGM == nil && !absent {
			select {
			case found <- news:
			case <-ctx.Done():
				return
			}
		}
		absent = news.DCGM == nil
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// say logs why there is no health, unless it has just been said.
func (s *Shim) say(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	s.dcgm.mu.Lock()
	news := text != s.dcgm.said
	s.dcgm.said = text
	s.dcgm.mu.Unlock()
	if news && err != nil {
		s.Log.Info("there is no health of GPUs", "err", err)
	}
}

// measure reads now and then what DCGM says of the GPUs of running tasks. Without such tasks it asks
// nobody.
func (s *Shim) measure(ctx context.Context, found chan<- []taskText) {
	tick := time.NewTicker(agentapi.DCGMEvery)
	defer tick.Stop()
	for {
		if list := s.texts(ctx); len(list) > 0 {
			select {
			case found <- list:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Shim) texts(ctx context.Context) []taskText {
	var list []taskText
	var all []byte
	for _, t := range s.all() {
		state, _ := t.snapshot()
		if state.State != agentapi.Running || len(state.GPUs) == 0 {
			continue
		}
		if all == nil {
			if all = s.dcgm.exporter.Text(ctx); all == nil {
				return nil
			}
		}
		text := dcgm.Filter(all, state.GPUs)
		if len(text) == 0 || len(text) > agentapi.MaxText {
			continue // the exporter does not know the GPUs, or makes up what nobody can use
		}
		if packed := agentapi.Pack(text); len(packed) <= agentapi.MaxPacked {
			list = append(list, taskText{t.spec.ID, packed})
		}
	}
	return list
}
