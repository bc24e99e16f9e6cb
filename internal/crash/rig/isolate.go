package rig

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/scope-registry/scope-registry/internal/crash/writes"
	"github.com/scope-registry/scope-registry/internal/link"
)

// Isolated is what became of an owner that was cut off from the registry, and not
// from its clients.
type Isolated struct {
	Acked   int // writes that it acknowledged after the cut, on the lease that it had
	Refused int // attempts that it refused
	// After the cut: Last is when its last acknowledged write ended, First when the
	// first one of the fallback began.
	Last, First time.Duration
	Void        string // why the run says nothing
}

// Margin is for how long nobody accepted writes: what clocks and leases leave.
func (i Isolated) Margin() time.Duration { return i.First - i.Last }

// Isolate cuts the owner of the scope with a fallback off from all servers, while
// clients write to it all the time, until the fallback has taken over and accepted
// writes. Only its lease tells the owner to stop. Then the network is mended, and the
// scope moves back.
func (r *Rig) Isolate(ctx context.Context) (Isolated, []writes.Finding, error) {
	var res Isolated
	if wrong, err := r.home(ctx, Heir); err != nil || len(wrong) > 0 {
		return res, wrong, err
	}
	before := r.scope(Heir)
	var old, other attempts
	load := r.writers([]string{before.Owner}, []string{Heir}, crowd, 0, old.add)
	cut, wrong, err := r.cutOff(ctx, before.Owner, &old, &other)
	load.Drain()
	if err != nil || len(wrong) > 0 {
		return res, wrong, err
	}
	wrong = res.judge(old.all, other.all, before.Epoch, cut)
	settled, err := r.settle(ctx)
	if wrong = append(wrong, settled...); err != nil || len(wrong) > 0 {
		return res, wrong, err
	}
	wrong, err = r.home(ctx, Heir)
	return res, wrong, err
}

// cutOff cuts a node off until its fallback has acknowledged writes, and returns
// when that was done.
func (r *Rig) cutOff(ctx context.Context, owner string, old, other *attempts) (cut time.Time, wrong []writes.Finding, err error) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	if err := r.busy(ctx, old); err != nil {
		return cut, broken(RuleSettle, "%v", err), nil
	}
	r.cut(owner, true)
	cut = time.Now()
	wrong = r.takenOver(ctx, owner, other)
	r.cut(owner, false)
	return cut, wrong, nil
}

// judge looks at the attempts at the owner that was cut off, and at the fallback.
func (i *Isolated) judge(old, other []writes.Op, epoch uint64, cut time.Time) (wrong []writes.Finding) {
	first := int64(math.MaxInt64)
	for _, op := range other {
		if op.Outcome == writes.Acknowledged && op.Token.Epoch > epoch {
			first = min(first, op.Began)
		}
	}
	last := cut.UnixNano()
	for _, op := range old {
		switch {
		case op.Call < cut.UnixNano():
		case op.Outcome != writes.Acknowledged:
			i.Refused++
		case op.Token.Epoch == epoch:
			i.Acked++
			last = max(last, op.Ended)
		}
	}
	i.Last, i.First = time.Duration(last-cut.UnixNano()), time.Duration(first-cut.UnixNano())
	if i.Margin() <= 0 {
		wrong = broken(RuleStopped, "the owner that was cut off acknowledged a write under epoch %d that ended %.3f s after the cut, and the fallback's first began after %.3f s",
			epoch, i.Last.Seconds(), i.First.Seconds())
	}
	if i.Acked == 0 || i.Refused == 0 {
		i.Void = fmt.Sprintf("the owner that was cut off acknowledged %d writes and refused %d", i.Acked, i.Refused)
	}
	return wrong
}

// cut cuts a node off from all servers, or mends that.
func (r *Rig) cut(node string, off bool) {
	for _, id := range r.Servers.IDs() {
		w := link.Way{From: node, To: id}
		r.net.Set("cut", w, link.State{Cut: off})
		r.net.Set("cut", w.Back(), link.State{Cut: off})
	}
}
