package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// errEnded is why a ship command is stopped whose move has ended under it.
var errEnded = errors.New("the move ended meanwhile")

// errInterrupted is why one is stopped that the operator no longer wants.
var errInterrupted = errors.New("move run was interrupted")

func (c *cli) moveRunCmd() *cobra.Command {
	var o startFlags
	var command string
	cmd := &cobra.Command{
		Use: "run PREFIX --from NODE --to NODE --exec COMMAND", Short: "Move a scope around your own ship command",
		Long: `Start an assisted move, run COMMAND with /bin/sh -c while the scope is closed, and
end the move: exit status 0 of COMMAND means that all records are durable on the
target. Nothing but your store closes the source: either it follows the registry,
or COMMAND closes it for the prefix first.
COMMAND gets SCOPE_PREFIX, SCOPE_MOVE_ID, SCOPE_FROM, SCOPE_TO, SCOPE_FROM_ADDR,
SCOPE_TO_ADDR and SCOPE_PHASE. With --precopy it runs twice: in phase copying while
the source still takes writes, then in phase quiescing. Its last line of output may
be a manifest, {"keys":N,"bytes":N,"digest":"…"}.
If COMMAND fails, on Ctrl-C, or when the move ends meanwhile, COMMAND is stopped and
the move aborted: exit 4. Exit 5 or 8: it could not be aborted, or its outcome is not
known; the message says who owns the scope and what to look at.`,
		Example: "  scope-registry move run app:billing: --from embed-billing-1 --to server-eu-1 \\\n" +
			"    --exec 'ship-slice --prefix \"$SCOPE_PREFIX\" --from \"$SCOPE_FROM_ADDR\" --to \"$SCOPE_TO_ADDR\"'",
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := o.request(args[0])
			if err != nil {
				return err
			}
			if strings.TrimSpace(command) == "" {
				return invalid("--exec is empty; give the command that ships the records")
			}
			ctx, stop := cmd.Context(), func() {}
			if !signal.Ignored(syscall.SIGHUP) { // a lost terminal must not leave the scope closed
				ctx, stop = signal.NotifyContext(ctx, syscall.SIGHUP)
			}
			defer stop()
			m.Mode = "assisted"
			return c.moveRun(ctx, m, command)
		},
	}
	o.register(cmd)
	cmd.Flags().StringVar(&command, "exec", "", "command that ships the records, run with /bin/sh -c")
	_ = cmd.MarkFlagRequired("exec")
	return cmd
}

func (c *cli) moveRun(ctx context.Context, req api.StartMove, command string) error {
	cl := c.dial()
	defer cl.Close()
	if req.ID == "" { // made here, so that it is known whatever the answer is
		req.ID = newMoveID()
	}
	// A step under way is waited for after Ctrl-C too: its outcome would not be known.
	m, err := cl.StartMove(context.WithoutCancel(ctx), req)
	if err != nil {
		return unsure(err, "if there is such a move, it is aborted when its window ends", req.ID)
	}
	if ended(m) || m.Mode != req.Mode { // the command must not touch records that are somebody else's by now
		return errors.Join(c.over(m), c.move(m))
	}
	t := c.track()
	s := &shipping{cl: cl, tracker: t, move: m, command: shipCommand{text: command, stderr: c.err, grace: shipGrace}}
	err = s.run(ctx)
	t.end()
	if ended(s.move) {
		return errors.Join(err, c.move(s.move))
	}
	return err
}

// over is what move run says of a move that was there before and leaves it
// nothing to do. nil is one that is done, as was asked for.
func (c *cli) over(m api.Move) error {
	if m.Phase == "done" {
		c.remark("move %s was done before; the ship command did not run", m.ID)
		return nil
	}
	return &api.Error{Code: api.WrongPhase, Move: m.ID, Detail: fmt.Sprintf(
		"move %s was there before, in mode %s, and is %s; the ship command did not run: use another --id", m.ID, m.Mode, m.Phase)}
}

func newMoveID() string {
	var raw [8]byte
	_, _ = rand.Read(raw[:]) // it does not fail: crypto/rand ends the program instead
	return "mv-" + hex.EncodeToString(raw[:])
}

// shipping is one move around a command.
type shipping struct {
	cl      *client.Client
	tracker *tracker
	command shipCommand
	move    api.Move // as it last was; only the goroutine that ships uses it
}

// run ships while it watches that the move still runs. The error is nil when
// the move is done.
func (s *shipping) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if _, err := follow(ctx, s.cl, s.move.ID, true, s.tracker.saw); err == nil {
			cancel(errEnded)
		}
	}()
	defer func() {
		cancel(nil)
		<-watched
	}()
	if err := s.ship(ctx); err != nil {
		return s.abort(ctx, err)
	}
	return s.ready(ctx)
}

// ship brings the move to shipped. The error is why the move has to be aborted.
func (s *shipping) ship(ctx context.Context) error {
	s.tracker.do("the ship command runs")
	s.tracker.saw(s.move)
	steps := context.WithoutCancel(ctx)
	if err := s.environ(steps); err != nil {
		return err
	}
	if s.move.Phase == "copying" {
		if _, err := s.exec(ctx, "copying"); err != nil {
			return err
		}
		if err := s.step(s.cl.Quiesce(steps, s.move.ID)); err != nil {
			return err
		}
	}
	manifest, err := s.exec(ctx, "quiescing")
	if err != nil {
		return err
	}
	s.tracker.do("the ship command went well, saying ready")
	if err := s.step(s.cl.Shipped(steps, s.move.ID, manifest)); err != nil {
		return err
	}
	return stopCause(ctx)
}

// environ fills in what the command is told. The nodes are asked for after the
// start: the server that answered it knows them.
func (s *shipping) environ(ctx context.Context) error {
	from, err := s.cl.Node(ctx, s.move.From)
	if err != nil {
		return err
	}
	to, err := s.cl.Node(ctx, s.move.To)
	if err != nil {
		return err
	}
	s.command.env = []string{"SCOPE_PREFIX=" + s.move.Prefix, "SCOPE_MOVE_ID=" + s.move.ID, "SCOPE_FROM=" + from.ID, "SCOPE_TO=" + to.ID,
		"SCOPE_FROM_ADDR=" + from.Addr, "SCOPE_TO_ADDR=" + to.Addr}
	return nil
}

// exec runs the command in a phase. If the move has ended, or is no longer
// wanted, that is the error, even where the command went well.
func (s *shipping) exec(ctx context.Context, phase string) (*api.Manifest, error) {
	m, err := s.command.run(ctx, phase)
	if stop := stopCause(ctx); stop != nil {
		return nil, stop
	}
	return m, err
}

// stopCause is why ctx has ended, nil if it has not.
func stopCause(ctx context.Context) error {
	cause := context.Cause(ctx)
	if cause == nil || errors.Is(cause, errEnded) {
		return cause
	}
	return errInterrupted
}

// step takes the answer of a step of the move.
func (s *shipping) step(m api.Move, err error) error {
	if err != nil {
		return err
	}
	s.move = m
	s.tracker.saw(m)
	return nil
}

// ready flips. From here on nothing is aborted unless the flip surely did not happen.
func (s *shipping) ready(ctx context.Context) error {
	steps := context.WithoutCancel(ctx)
	err := s.step(s.cl.Ready(steps, s.move.ID, s.move.Shipped))
	if err == nil {
		return nil
	}
	if api.CodeOf(err).Outcome() == api.NotApplied {
		return s.abort(ctx, err)
	}
	if s.look(steps) && s.move.Phase == "done" {
		return nil
	}
	if ended(s.move) {
		return aborted(s.move, "")
	}
	return unsure(err, fmt.Sprintf("if it is done, %s owns %s; if it is shipped, nobody accepts writes until you say move ready or move abort, or its window ends",
		s.move.To, s.move.Prefix), s.move.ID)
}

// look gets the move as it is now and reports whether that was possible.
func (s *shipping) look(ctx context.Context) bool {
	m, err := s.cl.Move(ctx, s.move.ID, 0)
	return s.step(m, err) == nil
}

// abort ends the move because of why, and returns the error that says where
// that leaves the scope.
func (s *shipping) abort(ctx context.Context, why error) error {
	ctx = context.WithoutCancel(ctx)
	s.tracker.do("aborting")
	reason := why.Error()
	m, err := s.cl.Abort(ctx, s.move.ID, abortReason(reason))
	if s.step(m, err) == nil {
		return aborted(s.move, "")
	}
	if s.look(ctx) && ended(s.move) { // by its window, or by somebody else
		if s.move.Phase == "aborted" {
			return aborted(s.move, reason+"; ")
		}
		return &api.Error{Code: api.WrongPhase, Move: s.move.ID, Owner: s.move.To, Detail: fmt.Sprintf(
			"%s; but move %s is done, somebody else ended it: %s owns %s now", reason, s.move.ID, s.move.To, s.move.Prefix)}
	}
	state := fmt.Sprintf("%s stays closed until the leader ends the move when its window is over; %s owns it then as before", s.move.Prefix, s.move.From)
	if s.move.Phase == "copying" {
		state = fmt.Sprintf("%s goes on accepting writes to %s", s.move.From, s.move.Prefix)
	}
	return &api.Error{Code: api.CodeOf(err), Move: s.move.ID, Owner: s.move.From, Detail: fmt.Sprintf(
		"%s; and move %s could not be aborted (%v): %s. Look at: move status %s", reason, s.move.ID, err, state, s.move.ID)}
}

// abortReason is text as a reason may be. It can hold whatever the command
// printed; bytes that are no UTF-8, or a character cut in two, would grow on
// their way as JSON, and the abort be refused for its length.
func abortReason(text string) string {
	text = strings.ToValidUTF8(text, "?")
	return strings.ToValidUTF8(text[:min(len(text), fsm.MaxReason)], "")
}

// aborted is the error of a move that was aborted.
func aborted(m api.Move, before string) error {
	why := m.Cause
	if m.Detail != "" {
		why += ": " + m.Detail
	}
	e := &api.Error{Code: api.WrongPhase, Move: m.ID, Detail: fmt.Sprintf("%smove %s was aborted (%s); ", before, m.ID, why)}
	if m.Cause == fsm.CauseForced {
		e.Detail += fmt.Sprintf("%s does not own %s any more: scope get tells who does", m.From, m.Prefix)
		return e
	}
	e.Owner = m.From
	e.Detail += fmt.Sprintf("%s still owns %s and takes its writes", m.From, m.Prefix)
	return e
}

// unsure adds to an error whose outcome is not known what to look at.
func unsure(err error, then, id string) error {
	var e *api.Error
	if !errors.As(err, &e) || e.Code.Outcome() == api.NotApplied {
		return err
	}
	e.Code, e.Move = api.OutcomeUnknown, id
	e.Detail += fmt.Sprintf(". Look at: move status %s; %s", id, then)
	return e
}
