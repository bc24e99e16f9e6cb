package gates

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/scope-registry/scope-registry/internal/crash/rig"
	"github.com/scope-registry/scope-registry/internal/process"
)

// Found is what a comparison has found.
type Found struct {
	Acknowledged, Present int
	// Wrong are writes that are lost, or twice there, or that nobody made; and copies that should be gone.
	Wrong []string
}

// maxWrong bounds how many are told.
const maxWrong = 20

func (f *Found) wrong(format string, args ...any) {
	if len(f.Wrong) < maxWrong {
		f.Wrong = append(f.Wrong, fmt.Sprintf(format, args...))
	}
}

// Settle waits until nothing moves or is to be deleted, and both scopes take writes.
func (r *Rig) Settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	if _, err := r.await(ctx, "moves and cleanups to end", func(w rig.World) string {
		for _, m := range w.Moves {
			if !w.Ended(m.ID) {
				return fmt.Sprintf("move %s is %s", m.ID, m.Phase)
			}
		}
		for _, c := range w.Cleanups {
			return fmt.Sprintf("%s has not deleted its copy of %q", c.Node, c.Prefix)
		}
		return ""
	}); err != nil {
		return err
	}
	if err := r.written(ctx); err != nil {
		return err
	}
	return r.deployment.Running(ctx)
}

// Compare has the writers pause, and compares what is at the owners, read through their gates, with what was acknowledged. It
// is called when all has settled.
func (r *Rig) Compare(ctx context.Context) (Found, error) {
	r.Work.hold.Lock()
	defer r.Work.hold.Unlock()
	var out Found
	for _, p := range Scopes() {
		owner, other, err := r.owner(p)
		if err != nil {
			return out, err
		}
		if err := r.compare(ctx, &out, p, owner); err != nil {
			return out, fmt.Errorf("reading %q at %s: %w", p, owner.ID, err)
		}
		if err := other.none(ctx, &out, p); err != nil {
			return out, err
		}
	}
	return out, nil
}

func (r *Rig) compare(ctx context.Context, out *Found, p string, owner Node) error {
	c := newRedis(owner.Gate)
	defer c.Close() //nolint:errcheck // nothing was written
	t := r.Work.scopes[p]
	have := map[string]map[string]int{} // by key, how often each id is there
	for _, one := range t.acked {
		if have[one.key] == nil {
			ids, err := one.read(ctx, c)
			if err != nil {
				return fmt.Errorf("%s: %w", one.key, err)
			}
			have[one.key] = ids
		}
		out.Acknowledged++
		switch n := have[one.key][one.id]; n {
		case 1:
			out.Present++
		case 0:
			out.wrong("%s of %s was acknowledged and is not at %s", one.id, one.key, owner.ID)
		default:
			out.wrong("%s of %s is %d times at %s", one.id, one.key, n, owner.ID)
		}
	}
	for key, ids := range have {
		for id := range ids {
			if !t.tried[key+" "+id] {
				out.wrong("%s of %s is at %s, and nobody wrote it", id, key, owner.ID)
			}
		}
	}
	return nil
}

// read returns how often each id is under the key of a write.
func (one write) read(ctx context.Context, c *redis.Client) (map[string]int, error) {
	var ids []string
	var err error
	switch one.kind {
	case 's':
		var v string
		if v, err = c.Get(ctx, one.key).Result(); err == nil {
			ids = []string{v}
		}
	case 'l':
		ids, err = c.LRange(ctx, one.key, 0, -1).Result()
	case 'h':
		ids, err = c.HKeys(ctx, one.key).Result()
	case 'e':
		ids, err = c.SMembers(ctx, one.key).Result()
	case 'z':
		ids, err = c.ZRange(ctx, one.key, 0, -1).Result()
	default:
		var entries []redis.XMessage
		entries, err = c.XRange(ctx, one.key, "-", "+").Result()
		for _, e := range entries {
			ids = append(ids, fmt.Sprint(e.Values["id"]))
		}
	}
	if err == redis.Nil { //nolint:errorlint // the client returns it bare
		err = nil
	}
	out := map[string]int{}
	for _, id := range ids {
		out[id]++
	}
	return out, err
}

// none sees that a server has nothing of a scope within some time: what an aborted move has staged is deleted
// when its gate and its store are both back.
func (n Node) none(ctx context.Context, out *Found, p string) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for {
		left, err := n.keys(ctx, p)
		if err != nil {
			return fmt.Errorf("looking for what is left of %q at %s: %w", p, n.ID, err)
		}
		if len(left) == 0 {
			return nil
		}
		if process.Sleep(ctx, lookEvery) != nil {
			out.wrong("%s has %d keys of %q after %v, like %s, whose owner is another", n.ID, len(left), p, settleTime, slices.Min(left))
			return nil
		}
	}
}

// lookEvery is the pause between two looks.
const lookEvery = 20 * time.Millisecond

func (n Node) keys(ctx context.Context, p string) (found []string, err error) {
	c := newRedis(n.Store)
	defer c.Close() //nolint:errcheck // nothing was written
	all := c.Scan(ctx, 0, p+"*", 1000).Iterator()
	for all.Next(ctx) {
		found = append(found, all.Val())
	}
	return found, all.Err()
}
