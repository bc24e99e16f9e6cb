package respapi

import (
	"math"
	"strconv"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
	"github.com/scope-registry/scope-registry/transport/resp"
)

// pairs are the names and values of a map, in order. The names are those of the
// JSON of internal/api. Values: nil, string, bool, int, int64, uint64, pairs,
// []string, []any.
type pairs []pair

type pair struct {
	name  string
	value any
}

// write writes a value of pairs.
func write(w *resp.Writer, v any) {
	switch v := v.(type) {
	case string:
		w.BulkString(v)
	case bool:
		w.Bool(v)
	case int:
		w.Int(int64(v))
	case int64:
		w.Int(v)
	case uint64:
		if v > math.MaxInt64 { // the protocol's integers are signed
			w.BulkString(strconv.FormatUint(v, 10))
		} else {
			w.Int(int64(v))
		}
	case pairs:
		w.Map(len(v))
		for _, p := range v {
			w.BulkString(p.name)
			write(w, p.value)
		}
	case []string:
		w.Array(len(v))
		for _, s := range v {
			w.BulkString(s)
		}
	case []any:
		w.Array(len(v))
		for _, e := range v {
			write(w, e)
		}
	default:
		w.Null()
	}
}

// each makes a list.
func each[T any](items []T, show func(T) pairs) []any {
	out := make([]any, len(items))
	for i, v := range items {
		out[i] = show(v)
	}
	return out
}

// given is v, or nil for what is not there.
func given[T comparable](v T) any {
	var none T
	if v == none {
		return nil
	}
	return v
}

// truth is v, or nil where it is not known.
func truth(v *bool) any {
	if v == nil {
		return nil
	}
	return *v
}

// shownAs is nil for what is not there, else what show makes of it.
func shownAs[T any](v *T, show func(T) pairs) any {
	if v == nil {
		return nil
	}
	return show(*v)
}

// bytesOf are the raw bytes of their text form, which the protocol carries.
func bytesOf(text string) string {
	if bytes, err := scope.ParseBytes(text); err == nil {
		return bytes
	}
	return text // never: the text was made by scope.BytesText
}

func nodePairs(n api.NodeState) pairs {
	return pairs{
		{"id", n.ID}, {"addr", n.Addr}, {"identity", given(n.Identity)},
		{"session", shownAs(n.Session, func(s api.Session) pairs {
			return pairs{{"id", s.ID}, {"opened_index", s.Opened}, {"view_index", s.View}}
		})},
		{"expired", n.Expired}, {"fenced", n.Fenced}, {"incarnation", given(n.Incarnation)}, {"incarnation_tag", given(n.Tag)},
	}
}

func sessionPairs(s api.SessionState) pairs {
	var left any
	if s.LeftMS != nil {
		left = *s.LeftMS
	}
	return pairs{{"node", s.Node}, {"id", s.ID}, {"opened_index", s.Opened}, {"view_index", s.View}, {"left_ms", left}, {"blind", s.Blind}}
}

func progressPairs(p api.Progress) pairs {
	return pairs{{"keys", p.Keys}, {"bytes", p.Bytes}, {"keys_left", p.KeysLeft}, {"bytes_left", p.BytesLeft},
		{"bytes_per_second", p.BytesPerSec}, {"left_ms", p.LeftMS}, {"age_ms", p.AgeMS}}
}

func scopePairs(s api.Scope) pairs {
	return pairs{
		{"prefix", bytesOf(s.Prefix)}, {"writer", s.Writer}, {"fallback", given(s.Fallback)},
		{"owner", s.Owner}, {"owner_addr", s.OwnerAddr}, {"epoch", s.Epoch}, {"incarnation", s.Incarnation},
		{"failover", s.Failover}, {"lease", s.Lease}, {"armed", s.Armed}, {"state", s.State},
		{"target", given(s.Target)}, {"move", given(s.Move)}, {"changed_index", s.Changed}, {"settled", truth(s.Settled)},
		{"cleanups", each(s.Cleanups, cleanupPairs)},
	}
}

func cleanupPairs(c api.Cleanup) pairs {
	return pairs{{"node", c.Node}, {"prefix", bytesOf(c.Prefix)}, {"epoch", c.Epoch}, {"move", given(c.Move)}}
}

func movePairs(m api.Move) pairs {
	return pairs{
		{"id", m.ID}, {"prefix", bytesOf(m.Prefix)}, {"from", m.From}, {"to", m.To}, {"phase", m.Phase},
		{"mode", m.Mode}, {"precopy", m.PreCopy}, {"epoch", m.Epoch}, {"new_epoch", given(m.NewEpoch)},
		{"window_ms", m.WindowMS}, {"timeout_ms", m.TimeoutMS}, {"actor", given(m.Actor)}, {"reason", given(m.Reason)},
		{"shipped", shownAs(m.Shipped, manifestPairs)}, {"ready", shownAs(m.Ready, manifestPairs)},
		{"stamps", each(m.Stamps, func(s api.Stamp) pairs {
			return pairs{{"phase", s.Phase}, {"index", s.Index}, {"time_ms", s.TimeMS}}
		})},
		{"cause", given(m.Cause)}, {"detail", given(m.Detail)}, {"quiesced_ms", m.QuiescedMS},
		{"progress", shownAs(m.Progress, progressPairs)}, {"cleanup", given(m.Cleanup)}, {"waiting", shownAs(m.Waiting, waitingPairs)},
	}
}

func manifestPairs(m api.Manifest) pairs {
	return pairs{{"keys", m.Keys}, {"bytes", m.Bytes}, {"digest", given(m.Digest)}}
}

func waitingPairs(v api.Waiting) pairs {
	return pairs{
		{"for", v.For}, {"since_ms", v.SinceMS},
		{"deadlines", each(v.Deadlines, func(d api.Deadline) pairs { return pairs{{"at_ms", d.AtMS}, {"what", d.What}} })},
		{"safe_now", each(v.Safe, func(c api.Choice) pairs { return pairs{{"do", c.Do}, {"then", c.Then}} })},
	}
}
