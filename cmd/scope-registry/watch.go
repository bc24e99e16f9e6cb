package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/internal/api"
)

func (c *cli) watchCmd() *cobra.Command {
	var from uint64
	var count int
	cmd := &cobra.Command{
		Use: "watch", Short: "Print changes as they happen", Args: cobra.NoArgs,
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
				if item.Type == "heartbeat" {
					continue
				}
				seen++
				if err := c.item(item); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().Uint64Var(&from, "from", 0, "changes after this index; 0 begins with all records")
	cmd.Flags().IntVar(&count, "count", 0, "end after this many items; 0 does not end")
	return cmd
}

// item prints one item: a line of JSON, or a line for each change.
func (c *cli) item(it api.WatchItem) error {
	if c.format != "table" {
		return c.line(it)
	}
	for _, ch := range it.Changes {
		if err := c.printf("%d %s %s %s\n", it.Index, it.Type, ch.Op, changeText(ch)); err != nil {
			return err
		}
	}
	return nil
}

func changeText(ch api.Change) string {
	text := ""
	switch {
	case ch.Node != nil:
		text = fmt.Sprintf("node %s %s", ch.Node.ID, ch.Node.Addr)
	case ch.Scope != nil:
		text = fmt.Sprintf("scope %s owner %s epoch %d %s", ch.Scope.Prefix, ch.Scope.Owner, ch.Scope.Epoch, ch.Scope.State)
	case ch.Move != nil:
		text = fmt.Sprintf("move %s %s from %s to %s %s", ch.Move.ID, ch.Move.Prefix, ch.Move.From, ch.Move.To, ch.Move.Phase)
	case ch.Cleanup != nil:
		text = fmt.Sprintf("cleanup %s on %s epoch %d", ch.Cleanup.Prefix, ch.Cleanup.Node, ch.Cleanup.Epoch)
	case ch.Tombstone != nil:
		text = fmt.Sprintf("tombstone %s owner %s epoch %d", ch.Tombstone.Prefix, ch.Tombstone.Owner, ch.Tombstone.Epoch)
	}
	if ch.Cause != "" {
		text += " (" + ch.Cause + ")"
	}
	return text
}
