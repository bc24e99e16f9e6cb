package fsm

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/pb"
)

// The commands are the schema's messages themselves: they are plain data, and a
// second set of structs beside them would only have to be kept equal.
type (
	// InitCluster names the cluster; the first one applied wins.
	InitCluster = pb.InitCluster
	// SetNode declares a node or changes its address.
	SetNode = pb.SetNode
	// RemoveNode removes a node that nothing names any more.
	RemoveNode = pb.RemoveNode
	// Declare declares a scope or changes its options, never its owner.
	Declare = pb.Declare
	// Retire removes a scope and leaves a tombstone.
	Retire = pb.Retire
	// Batch sets nodes and declares scopes, all or nothing.
	Batch = pb.Batch
	// StartMove begins a move.
	StartMove = pb.StartMove
	// Quiesce ends a move's pre-copy and closes the scope.
	Quiesce = pb.Quiesce
	// Shipped is the source's word: closed, drained, everything sent.
	Shipped = pb.Shipped
	// Ready is the target's word: everything held durably. It flips the owner.
	Ready = pb.Ready
	// Abort ends a move in favour of its source.
	Abort = pb.Abort
	// Cleaned says that an old copy is gone.
	Cleaned = pb.Cleaned
	// Force gives a scope to another node without its owner.
	Force = pb.Force
	// OpenSession is a node's process asking to speak for its node.
	OpenSession = pb.OpenSession
	// CloseSession is the holder's word that it admits nothing any more.
	CloseSession = pb.CloseSession
	// Expire ends a session whose lease has ended.
	Expire = pb.Expire
	// Ack says how far the view of a session's node has come.
	Ack = pb.Ack
	// FenceNode is an admin's word that a node is off.
	FenceNode = pb.FenceNode
	// Release is an admin's word that serves a scope although the cluster holds.
	Release = pb.Release
	// StageBackup brings one part of a backup into the log.
	StageBackup = pb.StageBackup
	// Restore puts the staged backup in the place of the state.
	Restore = pb.Restore
	// DropBackup takes back what was staged.
	DropBackup = pb.DropBackup
	// CheckState lets every server compare its state with that of a majority.
	CheckState = pb.CheckState
	// JoinServer lets a server become a member, or a member move to another address.
	JoinServer = pb.JoinServer
	// RemoveServer lets a server leave for good.
	RemoveServer = pb.RemoveServer
	// SettleServer is the leader's word that Raft's configuration has followed.
	SettleServer = pb.SettleServer
	// CreateToken makes a token.
	CreateToken = pb.CreateToken
	// RevokeToken ends a token.
	RevokeToken = pb.RevokeToken
	// Origin is who asked for a command, as the server knows them that took the request.
	Origin = pb.Origin
	// Manifest sums up the records of a slice.
	Manifest = pb.Manifest
	// Result answers one command.
	Result = pb.Result
)

// Bounds of log entries.
const (
	// MaxEntry bounds a log entry in bytes: raft holds entries in memory and
	// sends up to 64 of them in one frame.
	MaxEntry = 1 << 20
	// PackEntry is up to where the committer packs waiting commands together:
	// beyond it the gain per fsync is small and the delay of the first grows.
	PackEntry = 256 << 10
	// MaxEnvelope bounds one command, so that it fits an entry alone.
	MaxEnvelope = MaxEntry - 4<<10
	// MaxRequestID bounds a request id in bytes; 65,536 of them are kept.
	MaxRequestID = 128
	// MaxActor bounds the name of who asks, in bytes.
	MaxActor = 128
)

// Fields of pb.Entry.
const (
	fieldTimeMS    protowire.Number = 1
	fieldEnvelopes protowire.Number = 2
)

// Command is a pointer to one of the command types above.
type Command = proto.Message

// Envelope is one command with its request id and who asked for it. The request
// id is "<index at first proposal>-<random>", or any string of the client's; an
// empty one is not remembered. Without an origin it is a command of the leader's
// own, or of a release before there were any: nobody is asked whether he may.
type Envelope struct {
	RequestID string
	Actor     string
	Origin    *Origin
	Command   Command
}

// Encode returns the wire form: the bytes that are proposed, forwarded and, for
// a retry, proposed again. Errors are *[api.Error]: INVALID for a type that is
// not a command, TOO_LARGE over [MaxEnvelope].
func (e Envelope) Encode() ([]byte, error) {
	if len(e.RequestID) > MaxRequestID || len(e.Actor) > MaxActor {
		return nil, refuse(api.Invalid, "the request id has %d bytes and the actor %d; the limits are %d and %d",
			len(e.RequestID), len(e.Actor), MaxRequestID, MaxActor)
	}
	c, ok := wrap(e.Command)
	if !ok {
		return nil, refuse(api.Invalid, "%T is not a command", e.Command)
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(&pb.Envelope{RequestId: e.RequestID, Actor: e.Actor, Origin: e.Origin, Command: c})
	if err != nil {
		return nil, refuse(api.Invalid, "the command cannot be encoded (strings must be UTF-8): %v", err)
	}
	if len(data) > MaxEnvelope {
		return nil, refuse(api.TooLarge, "the command has %d bytes, the limit is %d; split it", len(data), MaxEnvelope)
	}
	return data, nil
}

// DecodeEnvelope reverses [Envelope.Encode]. A command this release does not
// know is an error, never skipped.
func DecodeEnvelope(data []byte) (Envelope, error) {
	var w pb.Envelope
	if err := proto.Unmarshal(data, &w); err != nil {
		return Envelope{}, fmt.Errorf("undecodable command: %w", err)
	}
	c, ok := unwrap(w.GetCommand())
	if !ok || unknownAround(&w) || hasUnknown(c.ProtoReflect()) {
		return Envelope{}, fmt.Errorf("unknown command or field in request %q: it was written by a newer release; upgrade this server", w.GetRequestId())
	}
	return Envelope{w.GetRequestId(), w.GetActor(), w.GetOrigin(), c}, nil
}

// unknownAround is [hasUnknown] of an envelope without what its command is of. To look for messages among the fields of these
// three, which every command brings, took longer than to decode it.
func unknownAround(w *pb.Envelope) bool {
	return len(w.ProtoReflect().GetUnknown()) > 0 || len(w.GetOrigin().ProtoReflect().GetUnknown()) > 0 || len(w.GetCommand().ProtoReflect().GetUnknown()) > 0
}

// hasUnknown reports whether the message, or one inside it at any depth, has a
// field that this release does not know. [protoreflect.Message.Range] would fetch
// the value of each field that is set, of which only messages matter here.
func hasUnknown(m protoreflect.Message) bool {
	if len(m.GetUnknown()) > 0 {
		return true
	}
	d := m.Descriptor()
	for i := range d.Oneofs().Len() { // a command is one of many
		if f := m.WhichOneof(d.Oneofs().Get(i)); f != nil && unknownIn(m, f) {
			return true
		}
	}
	for i := range d.Fields().Len() {
		if f := d.Fields().Get(i); f.ContainingOneof() == nil && f.Message() != nil && m.Has(f) && unknownIn(m, f) {
			return true
		}
	}
	return false
}

// unknownIn is [hasUnknown] of what a field holds.
func unknownIn(m protoreflect.Message, f protoreflect.FieldDescriptor) bool {
	switch {
	case f.Message() == nil: // a plain value
		return false
	case !f.IsList():
		return hasUnknown(m.Get(f).Message())
	}
	list := m.Get(f).List()
	for i := range list.Len() {
		if hasUnknown(list.Get(i).Message()) {
			return true
		}
	}
	return false
}

// EncodeEntry packs encoded envelopes into the data of one log entry, stamped
// with the leader's wall clock.
func EncodeEntry(timeMS int64, envelopes [][]byte) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(&pb.Entry{TimeMs: timeMS, Envelopes: envelopes})
}

// decodeEntry reverses [EncodeEntry]. The envelopes are parts of data, which a decoder of messages would copy.
func decodeEntry(data []byte) (timeMS int64, envelopes [][]byte, err error) {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return 0, nil, fmt.Errorf("cannot be decoded: %w", protowire.ParseError(n))
		}
		data = data[n:]
		switch {
		case number == fieldTimeMS && kind == protowire.VarintType:
			var v uint64
			v, n = protowire.ConsumeVarint(data)
			timeMS = int64(v)
		case number == fieldEnvelopes && kind == protowire.BytesType:
			var v []byte
			v, n = protowire.ConsumeBytes(data)
			envelopes = append(envelopes, v)
		default:
			return 0, nil, errors.New("has a field this release does not know; upgrade this server")
		}
		if n < 0 {
			return 0, nil, fmt.Errorf("cannot be decoded: %w", protowire.ParseError(n))
		}
		data = data[n:]
	}
	return timeMS, envelopes, nil
}

func wrap(c Command) (*pb.Command, bool) {
	switch c := c.(type) {
	case *InitCluster:
		return &pb.Command{Kind: &pb.Command_InitCluster{InitCluster: c}}, true
	case *SetNode:
		return &pb.Command{Kind: &pb.Command_SetNode{SetNode: c}}, true
	case *RemoveNode:
		return &pb.Command{Kind: &pb.Command_RemoveNode{RemoveNode: c}}, true
	case *Declare:
		return &pb.Command{Kind: &pb.Command_Declare{Declare: c}}, true
	case *Retire:
		return &pb.Command{Kind: &pb.Command_Retire{Retire: c}}, true
	case *Batch:
		return &pb.Command{Kind: &pb.Command_Batch{Batch: c}}, true
	case *StartMove:
		return &pb.Command{Kind: &pb.Command_StartMove{StartMove: c}}, true
	case *Quiesce:
		return &pb.Command{Kind: &pb.Command_Quiesce{Quiesce: c}}, true
	case *Shipped:
		return &pb.Command{Kind: &pb.Command_Shipped{Shipped: c}}, true
	case *Ready:
		return &pb.Command{Kind: &pb.Command_Ready{Ready: c}}, true
	case *Abort:
		return &pb.Command{Kind: &pb.Command_Abort{Abort: c}}, true
	case *Cleaned:
		return &pb.Command{Kind: &pb.Command_Cleaned{Cleaned: c}}, true
	case *Force:
		return &pb.Command{Kind: &pb.Command_Force{Force: c}}, true
	case *Release:
		return &pb.Command{Kind: &pb.Command_Release{Release: c}}, true
	}
	return wrapSession(c)
}

func wrapSession(c Command) (*pb.Command, bool) {
	switch c := c.(type) {
	case *OpenSession:
		return &pb.Command{Kind: &pb.Command_OpenSession{OpenSession: c}}, true
	case *CloseSession:
		return &pb.Command{Kind: &pb.Command_CloseSession{CloseSession: c}}, true
	case *Expire:
		return &pb.Command{Kind: &pb.Command_Expire{Expire: c}}, true
	case *Ack:
		return &pb.Command{Kind: &pb.Command_Ack{Ack: c}}, true
	case *FenceNode:
		return &pb.Command{Kind: &pb.Command_FenceNode{FenceNode: c}}, true
	case *CheckState:
		return &pb.Command{Kind: &pb.Command_CheckState{CheckState: c}}, true
	}
	return wrapRestore(c)
}

func wrapRestore(c Command) (*pb.Command, bool) {
	switch c := c.(type) {
	case *StageBackup:
		return &pb.Command{Kind: &pb.Command_StageBackup{StageBackup: c}}, true
	case *Restore:
		return &pb.Command{Kind: &pb.Command_Restore{Restore: c}}, true
	case *DropBackup:
		return &pb.Command{Kind: &pb.Command_DropBackup{DropBackup: c}}, true
	}
	return wrapServer(c)
}

func wrapServer(c Command) (*pb.Command, bool) {
	switch c := c.(type) {
	case *JoinServer:
		return &pb.Command{Kind: &pb.Command_JoinServer{JoinServer: c}}, true
	case *RemoveServer:
		return &pb.Command{Kind: &pb.Command_RemoveServer{RemoveServer: c}}, true
	case *SettleServer:
		return &pb.Command{Kind: &pb.Command_SettleServer{SettleServer: c}}, true
	case *CreateToken:
		return &pb.Command{Kind: &pb.Command_CreateToken{CreateToken: c}}, true
	case *RevokeToken:
		return &pb.Command{Kind: &pb.Command_RevokeToken{RevokeToken: c}}, true
	}
	return nil, false
}

func unwrap(c *pb.Command) (Command, bool) {
	if c == nil {
		return nil, false
	}
	switch k := c.GetKind().(type) {
	case *pb.Command_InitCluster:
		return k.InitCluster, true
	case *pb.Command_SetNode:
		return k.SetNode, true
	case *pb.Command_RemoveNode:
		return k.RemoveNode, true
	case *pb.Command_Declare:
		return k.Declare, true
	case *pb.Command_Retire:
		return k.Retire, true
	case *pb.Command_Batch:
		return k.Batch, true
	case *pb.Command_StartMove:
		return k.StartMove, true
	case *pb.Command_Quiesce:
		return k.Quiesce, true
	case *pb.Command_Shipped:
		return k.Shipped, true
	case *pb.Command_Ready:
		return k.Ready, true
	case *pb.Command_Abort:
		return k.Abort, true
	case *pb.Command_Cleaned:
		return k.Cleaned, true
	case *pb.Command_Force:
		return k.Force, true
	case *pb.Command_Release:
		return k.Release, true
	case *pb.Command_OpenSession:
		return k.OpenSession, true
	case *pb.Command_CloseSession:
		return k.CloseSession, true
	case *pb.Command_Expire:
		return k.Expire, true
	case *pb.Command_Ack:
		return k.Ack, true
	case *pb.Command_FenceNode:
		return k.FenceNode, true
	case *pb.Command_StageBackup:
		return k.StageBackup, true
	case *pb.Command_Restore:
		return k.Restore, true
	case *pb.Command_DropBackup:
		return k.DropBackup, true
	case *pb.Command_CheckState:
		return k.CheckState, true
	case *pb.Command_JoinServer:
		return k.JoinServer, true
	case *pb.Command_RemoveServer:
		return k.RemoveServer, true
	case *pb.Command_SettleServer:
		return k.SettleServer, true
	case *pb.Command_CreateToken:
		return k.CreateToken, true
	case *pb.Command_RevokeToken:
		return k.RevokeToken, true
	}
	return nil, false
}
