package fsm

import (
	"fmt"
)

// restore puts the state as a backup at an index of its own, or the next one, in
// incarnation 2 with the tag "t2", unless the line gives others.
func (s *script) restore(a args) {
	r := Restoration{Incarnation: 2, Tag: "t2", Complete: a.has("complete"), Index: s.state.Index() + 1}
	if _, ok := a.named["inc"]; ok {
		r.Incarnation = a.num(s.t, "inc")
	}
	if _, ok := a.named["tag"]; ok {
		r.Tag = a.text("tag")
	}
	if _, ok := a.named["index"]; ok {
		r.Index = a.num(s.t, "index")
	}
	r.TimeMS = int64(r.Index) * 1000
	before := s.state.Hash()
	next, events, err := s.state.Restored(r)
	if s.state.Hash() != before {
		s.t.Fatal("a restore changed the state of the backup")
	}
	if err != nil {
		fmt.Fprintf(&s.out, "  %s\n", indented(err.Error()))
		return
	}
	if err := next.Check(); err != nil {
		s.t.Fatalf("after the restore: %v", err)
	}
	s.state = next
	fmt.Fprintf(&s.out, "  restored @%d\n", next.Index())
	for _, ev := range events {
		fmt.Fprintf(&s.out, "  %s\n", eventText(ev))
	}
}

func clusterText(c Cluster) string { return "cluster " + c.ID + incarnationText(c) }

// incarnationText is nothing for the first incarnation, which most scripts are in.
func incarnationText(c Cluster) string {
	if c.Incarnation < 2 {
		return ""
	}
	text := fmt.Sprintf(" incarnation=%d tag=%s", c.Incarnation, c.Tag)
	if c.Hold {
		text += " hold"
	}
	if c.Complete {
		text += " complete"
	}
	return text
}
