package slices

import (
	"context"
	"time"
)

// pace holds a reader to so many bytes a second. The zero value lets everything pass.
type pace struct {
	rate  int64 // bytes a second; 0 is no limit
	free  time.Time
	now   func() time.Time
	sleep func(context.Context, time.Duration) error
}

// slack is what may be read ahead of the pace, so that it is not slept for every key.
const slack = 20 * time.Millisecond

func newPace(rate int64) pace { return pace{rate: rate, now: time.Now, sleep: sleep} }

func (p *pace) wait(ctx context.Context, n int) error {
	if p.rate <= 0 {
		return nil
	}
	now := p.now()
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	if ahead := p.free.Sub(now); ahead > slack {
		return p.sleep(ctx, ahead)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
