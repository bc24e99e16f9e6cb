package client

import (
	"testing"

	"github.com/scope-registry/scope-registry/internal/api"
)

// Why an item is refused decides what the next stream is asked for.
func TestFoldSaysWhatIsWrong(t *testing.T) {
	other := beat(2, 9)
	other.Tag = "other"
	for name, c := range map[string]struct {
		items []api.WatchItem
		want  api.Code // of the last one; "" is none
		from  uint64   // what the next stream begins after
	}{
		"an older incarnation is of a server that is behind": {[]api.WatchItem{whole(2, 9), beat(1, 50)}, api.Unavailable, 9},
		"so is an earlier index":                             {[]api.WatchItem{whole(2, 9), beat(2, 8)}, api.Unavailable, 9},
		"a later incarnation needs a snapshot":               {[]api.WatchItem{whole(2, 9), beat(3, 50)}, api.Compacted, 0},
		"an unknown item too":                                {[]api.WatchItem{whole(2, 9), in(2, "t", api.WatchItem{Type: "x", Index: 9})}, api.Compacted, 0},
		"another tag does not":                               {[]api.WatchItem{whole(2, 9), other}, api.StaleEpoch, 9},
		"what makes no sense does":                           {[]api.WatchItem{whole(2, 9), changed(2, 10, owned("p", "", 1), owned("p:", "a", 2))}, api.Internal, 0},
		"a later incarnation begins its snapshot anew":       {[]api.WatchItem{part(whole(2, 9)), whole(3, 9)}, "", 9},
		"a change is not taken twice":                        {[]api.WatchItem{whole(2, 9), changed(2, 9, owned("p:", "a", 1))}, "", 9},
	} {
		var f fold
		var err error
		for i, item := range c.items {
			if err = f.take(item); err != nil && i+1 < len(c.items) {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if (err == nil) != (c.want == "") || err != nil && !is(err, c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		if f.ended(err); f.from() != c.from {
			t.Errorf("%s: the next stream begins after %d, want %d", name, f.from(), c.from)
		}
	}
}
