package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
)

// The states of a node, as an operator sees them.
const (
	nodeLive    = "live"    // a process speaks for it
	nodeBlind   = "blind"   // the same, but it follows no changes, so that its lease runs out
	nodeExpired = "expired" // its last session ended because nobody renewed it
	nodeFenced  = "fenced"  // somebody has vouched that it is off
	nodeNone    = "none"    // it never had a session, or closed the last one itself
)

// sessionState is the state of a node. s is its session as the leader counts it,
// nil if that is not known.
func sessionState(n api.NodeState, s *api.SessionState) string {
	switch {
	case n.Session != nil && s != nil && s.Blind:
		return nodeBlind
	case n.Session != nil:
		return nodeLive
	case n.Fenced:
		return nodeFenced
	case n.Expired:
		return nodeExpired
	}
	return nodeNone
}

// sessionOf is the session of a node among those that the leader counts.
func sessionOf(n api.NodeState, all api.Sessions) *api.SessionState {
	for i, s := range all.Sessions {
		if n.Session != nil && s.ID == n.Session.ID {
			return &all.Sessions[i]
		}
	}
	return nil
}

// lease is what is left of a lease, "" if that is not known.
func lease(s *api.SessionState) string {
	if s == nil || s.LeftMS == nil {
		return ""
	}
	return seconds(max(0, time.Duration(*s.LeftMS)*time.Millisecond))
}

// sessions asks for the leases beside what the log knows of nodes. Without them
// the rest is shown.
func (c *cli) sessions(cmd *cobra.Command, cl *client.Client) api.Sessions {
	all, err := cl.Sessions(cmd.Context())
	if err != nil {
		all.NoLeases = err.Error()
	}
	if all.NoLeases != "" {
		c.warn([]string{"what is left of leases is not known: " + all.NoLeases})
	}
	return all
}

func (c *cli) nodeListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List data nodes and their sessions",
		Long: `List the data nodes with their addresses and sessions. SESSION is live, blind (it
follows no changes, so that its lease runs out), expired (nobody renewed it),
fenced (somebody vouched that the node is off) or none; SINCE is the log index at
which it was opened, LEASE what is left of it without a renewal.`,
		Example: "  scope-registry node list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl := c.dial()
			defer cl.Close()
			n, err := cl.Nodes(cmd.Context())
			if err != nil {
				return err
			}
			var all api.Sessions
			if c.format == "table" {
				all = c.sessions(cmd, cl)
			}
			return list(c, n, n.Nodes, "ID ADDR SESSION SINCE LEASE", func(n api.NodeState) []string {
				s, since := sessionOf(n, all), ""
				if n.Session != nil {
					since = num(n.Session.Opened)
				}
				return []string{n.ID, n.Addr, sessionState(n, s), since, lease(s)}
			})
		},
	}
}

func (c *cli) nodeGetCmd() *cobra.Command {
	return &cobra.Command{
		Use: "get ID", Short: "Show one data node and its session",
		Long: `Show one data node: its address, its session and what is left of the lease, how
far its view is known to have come, the identity of the data that it last held a
session with, and the incarnation of the cluster that it has met.`,
		Example: "  scope-registry node get embed-billing-1",
		RunE: func(cmd *cobra.Command, args []string) error {
			cl := c.dial()
			defer cl.Close()
			n, err := cl.Node(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.show(n, func() error { return c.nodeFacts(n, sessionOf(n, c.sessions(cmd, cl))) })
		},
	}
}

func (c *cli) nodeFacts(n api.NodeState, s *api.SessionState) error {
	pairs := []string{"node", n.ID, "addr", n.Addr, "session", sessionState(n, s)}
	if n.Session != nil {
		view := n.Session.View
		if s != nil {
			view = max(view, s.View)
		}
		pairs = append(pairs, "session id", n.Session.ID, "opened index", num(n.Session.Opened), "view index", num(view), "lease", lease(s))
	}
	return c.facts(append(pairs, "identity", n.Identity, "incarnation", num(n.Incarnation), "incarnation tag", n.Tag)...)
}

func (c *cli) nodeSessionsCmd() *cobra.Command {
	return &cobra.Command{
		Use: "sessions", Short: "List the live sessions and their leases",
		Long: `List the live sessions of data nodes as the leader counts them: the log index at
which each was opened (SINCE), how far the view of its node has come (VIEW), and
what is left of its lease without a renewal. A blind one is renewed no more, as
its view stands still. Without a leader the leases are left out.`,
		Example: "  scope-registry node sessions",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl := c.dial()
			defer cl.Close()
			all, err := cl.Sessions(cmd.Context())
			if err != nil {
				return err
			}
			if all.NoLeases != "" {
				c.warn([]string{"what is left of leases is not known: " + all.NoLeases})
			}
			return list(c, all, all.Sessions, "NODE SESSION SINCE VIEW STATE LEASE", func(s api.SessionState) []string {
				state := nodeLive
				if s.Blind {
					state = nodeBlind
				}
				return []string{s.Node, s.ID, num(s.Opened), num(s.View), state, lease(&s)}
			})
		},
	}
}

func (c *cli) nodeFenceCmd() *cobra.Command {
	var f client.Fenced
	cmd := &cobra.Command{
		Use: "fence ID --identity IDENTITY", Short: "Vouch that a data node is off for good",
		Long: `Say that the process of a data node is off and does not come back with the data
it last held a session with, which --identity names (node get shows it). Its next
session may then be of other data, such as an empty disk. If the old process runs
after all, two nodes write the same keys. It is refused while the node has a
session, and void after its next one.`,
		Example: "  scope-registry node fence embed-billing-1 --identity 4f0c61aa83b7d2e9",
		RunE: func(cmd *cobra.Command, args []string) error {
			f.Node = args[0]
			cl := c.dial()
			defer cl.Close()
			a, err := cl.FenceNode(cmd.Context(), f)
			if err != nil {
				return err
			}
			return c.applied("fenced node "+f.Node, a)
		},
	}
	cmd.Flags().StringVar(&f.Identity, "identity", "", "identity of the data that is off")
	_ = cmd.MarkFlagRequired("identity")
	return c.reasonFlag(cmd)
}
