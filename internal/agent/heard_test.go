package agent

import (
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// A view is confirmed by whatever makes it, and by a heartbeat of its own index: not by a part of a snapshot, nor by a server
// that is behind, nor by a stream that was given up.
func TestHeard(t *testing.T) {
	s := begun(t)
	now := s.state.now
	item := func(kind string, index uint64) api.WatchItem {
		its := s.state.view.incarnation
		return api.WatchItem{Type: kind, Index: index, Incarnation: its.Number, Tag: its.Tag}
	}
	part := item("snapshot", 20)
	part.More = true
	part.Changes = []api.Change{{Op: "put", Cluster: &api.ClusterRecord{Incarnation: part.Incarnation, Tag: part.Tag}}}
	for _, step := range []struct {
		name    string
		item    api.WatchItem
		stream  uint64 // before the one that runs
		confirm bool
	}{
		{name: "a heartbeat", item: item("heartbeat", 11), confirm: true},
		{name: "of a server that is behind", item: item("heartbeat", 9)},
		{name: "of an old stream", item: item("heartbeat", 11), stream: 1},
		{name: "a change", item: item("change", 12), confirm: true},
		{name: "a snapshot that goes on", item: part},
		{name: "its end", item: item("snapshot", 20), confirm: true},
		{name: "no such item", item: item("reset", 20)},
		{name: "after it", item: item("heartbeat", 20)},
	} {
		now += time.Millisecond
		was := s.state.Heard()
		s.state, _ = Step(s.state, now, Watched{Stream: s.state.stream - step.stream, Item: step.item})
		want := was
		if step.confirm {
			want = now
		}
		if got := s.state.Heard(); got != want {
			t.Errorf("%s: heard at %v, want %v, at %v", step.name, got, want, now)
		}
	}
	if s := New(Config{}, time.Hour, nil); s.Heard() != time.Hour {
		t.Errorf("at first: %v", s.Heard())
	}
}
