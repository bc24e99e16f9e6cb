package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
)

const (
	// joinWait is how long cluster join waits unless it is told otherwise: a snapshot of a million scopes over a slow link.
	joinWait = 10 * time.Minute
	// joinEvery is how often it looks.
	joinEvery = 500 * time.Millisecond
)

func (c *cli) clusterJoinCmd() *cobra.Command {
	var limit time.Duration
	cmd := &cobra.Command{
		Use: "join ID=HOST:PORT", Short: "Bring in a server, or give one another address",
		Long: `Bring in a server that waits for it: it was started with an empty data directory,
an id that was never used in this cluster, and a --cluster that names itself and a
server of this cluster. It gets the log, and its vote once it has caught up. That goes
on by itself when this command ends before it, whoever leads; cluster remove gives up.
For a server that is one already, and runs on its own data at another address, this
makes the new address known; for one that is leaving, it ends that, and it stays.
HOST:PORT is its --peer, as the other servers dial it.`,
		Example: "  scope-registry cluster join s4=registry-4:7482",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, addr, ok := strings.Cut(args[0], "=")
			if !ok || id == "" || addr == "" {
				return invalid("%q is not ID=HOST:PORT, as in s4=registry-4:7482", args[0])
			}
			if limit < 0 {
				return invalid("--wait %v is negative; 0 does not wait", limit)
			}
			cl := c.dial()
			defer cl.Close()
			change, err := cl.JoinServer(cmd.Context(), id, addr)
			if err != nil {
				return unsureOfServer(err)
			}
			if limit > 0 && change.Phase == "joining" {
				if change, err = c.awaitMember(cmd.Context(), cl, change, limit); err != nil {
					return err
				}
			}
			return c.show(change, func() error { return c.printf("%s\n", changeLine(change)) })
		},
	}
	cmd.Flags().DurationVar(&limit, "wait", joinWait, "how long to wait until it votes; 0 does not wait")
	return c.reasonFlag(cmd)
}

// awaitMember waits until a server that joins has become a voter.
func (c *cli) awaitMember(ctx context.Context, cl *client.Client, change api.ServerChange, limit time.Duration) (api.ServerChange, error) {
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	said := time.Time{}
	for {
		s, err := cl.Cluster(wait, false)
		if err == nil {
			over := s.Index >= change.Since && (s.Change == nil || s.Change.ID != change.ID || s.Change.Phase != "joining")
			if over {
				return c.joined(s, change)
			}
			if s.Change != nil {
				change = *s.Change
			}
			if time.Since(said) >= tellEvery {
				said = time.Now()
				c.remark("%s", changeLine(change))
			}
		}
		select {
		case <-wait.Done():
			return change, &api.Error{Code: api.Timeout, Detail: fmt.Sprintf("server %s has not got its vote within %v; it goes on by itself: see cluster status, or give it up with: scope-registry cluster remove %s", change.ID, limit, change.ID)}
		case <-time.After(joinEvery):
		}
	}
}

// joined is the end of a join: the server votes, or somebody gave it up.
func (c *cli) joined(s api.Cluster, change api.ServerChange) (api.ServerChange, error) {
	for _, m := range s.Members {
		if m.ID == change.ID && m.Voter && m.Peer == change.Addr {
			change.Phase, change.Waits = "member", ""
			return change, nil
		}
	}
	return change, &api.Error{Code: api.WrongPhase, Detail: fmt.Sprintf("the join of server %s ended without its vote: it was removed meanwhile", change.ID)}
}

func (c *cli) clusterRemoveCmd() *cobra.Command {
	var accept bool
	cmd := &cobra.Command{
		Use: "remove ID", Short: "Remove a server for good",
		Long: `Remove a server for good, one that is up or one that is lost, or give up a join. It
stops by itself, its data directory cannot come back, and its id is not used again. To
replace a server join the new one first: with three servers, the cluster then survives
the loss of one at every moment. Leadership is handed over first where it has it.
Refused while the servers that would stay, and are up, are no majority of them.`,
		Example: "  scope-registry cluster remove s3",
		RunE: func(cmd *cobra.Command, args []string) error {
			cl := c.dial()
			defer cl.Close()
			change, err := cl.RemoveServer(cmd.Context(), args[0], accept)
			if err != nil {
				return unsureOfServer(err)
			}
			return c.show(change, func() error { return c.printf("%s\n", changeLine(change)) })
		},
	}
	cmd.Flags().BoolVar(&accept, "accept-no-majority", false, "remove it although the servers that stay and are up are no majority: nothing can be changed then until more are up")
	return c.reasonFlag(cmd)
}

// unsureOfServer says what to do about a change of the servers of which nobody knows whether it is under way.
func unsureOfServer(err error) error {
	var e *api.Error
	if errors.As(err, &e) && e.Code.Outcome() != api.NotApplied {
		e.Detail += ". Look at: cluster status; the same command again does no harm"
	}
	return err
}

// changeLine is a change of the servers in one line.
func changeLine(ch api.ServerChange) string {
	text := fmt.Sprintf("server %s at %s is %s", ch.ID, ch.Addr, ch.Phase)
	if ch.Phase == "joining" || ch.Phase == "leaving" {
		text += fmt.Sprintf(" since index %d", ch.Since)
	}
	if ch.Waits != "" {
		text += ": " + ch.Waits
	}
	return text
}
