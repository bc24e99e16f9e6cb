package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/internal/api"
)

func (c *cli) watchCmd() *cobra.Command {
	var from uint64
	var count int
	cmd := &cobra.Command{
		Use: "watch", Short: "Print changes as they happen",
		Long: `Print changes as they happen, each with its log index and cause, until Ctrl-C.
From index 0 a snapshot of all records comes first. If the changes after --from
are no longer kept, a snapshot follows and standard error says so. -o jsonl
prints every item as it came, one per line, heartbeats included.`,
		Example: "  scope-registry watch --from 120 -o jsonl",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl := c.dial()
			defer cl.Close()
			w := cl.Watch(cmd.Context(), from)
			defer w.Close()
			for seen := 0; count == 0 || seen < count; {
				item, err := w.Next()
				if cmd.Context().Err() != nil {
					return nil // the user ended it
				}
				if err != nil {
					return err
				}
				if w.Resynced() {
					c.remark("the changes since the last index are no longer kept; a snapshot follows")
				}
				if item.Type == "change" {
					seen++
				}
				if err := c.item(item); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().Uint64Var(&from, "from", 0, "changes after this index; 0 begins with all records")
	cmd.Flags().IntVar(&count, "count", 0, "end after this many changes; neither a snapshot nor a heartbeat counts; 0 does not end")
	return cmd
}

// item prints one item: the item itself as a line of JSON, or a line for each of its changes.
func (c *cli) item(it api.WatchItem) error {
	if c.format != "table" {
		return c.line(it)
	}
	for _, ch := range it.Changes {
		if err := c.printf("%-8d  %-9s  %s\n", it.Index, ch.Cause, printable(changeText(ch), "")); err != nil {
			return err
		}
	}
	return nil
}

// nodeText is a node with what is known of its process.
func nodeText(n api.NodeState) string {
	text := "at " + n.Addr
	switch state := sessionState(n, nil); state {
	case nodeNone:
	case nodeLive:
		text += fmt.Sprintf(", session %s opened at index %d, view at %d", n.Session.ID, n.Session.Opened, n.Session.View)
	default:
		text += ", " + state
	}
	return text
}

// changeText is one change as people read it.
func changeText(ch api.Change) string {
	name, now := "", ""
	switch {
	case ch.Cluster != nil:
		k := ch.Cluster
		name, now = "cluster "+k.ID, fmt.Sprintf("incarnation %d", k.Incarnation)
		if k.Hold {
			now += ", on hold"
		}
	case ch.Node != nil:
		name, now = "node "+ch.Node.ID, nodeText(*ch.Node)
	case ch.Scope != nil:
		s := ch.Scope
		name, now = "scope "+s.Prefix, fmt.Sprintf("owner %s, epoch %d, %s", s.Owner, s.Epoch, s.State)
	case ch.Move != nil:
		m := ch.Move
		name, now = "move "+m.ID, fmt.Sprintf("of %s from %s to %s: %s", m.Prefix, m.From, m.To, m.Phase)
		if m.Phase == "aborted" {
			now += fmt.Sprintf(" (%s) %s", m.Cause, m.Detail)
		}
	case ch.Cleanup != nil:
		name, now = fmt.Sprintf("cleanup of %s on %s", ch.Cleanup.Prefix, ch.Cleanup.Node), fmt.Sprintf("pending, epoch %d", ch.Cleanup.Epoch)
	case ch.Tombstone != nil:
		t := ch.Tombstone
		name, now = "tombstone of "+t.Prefix, fmt.Sprintf("last owner %s, epoch %d", t.Owner, t.Epoch)
	}
	if ch.Op == "delete" {
		return name + " removed"
	}
	return strings.TrimRight(name+" "+now, " ")
}
