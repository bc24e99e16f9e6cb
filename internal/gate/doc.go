// Package gate is a proxy that puts ownership in front of a Redis-protocol server. Clients speak to it as to the server; a
// write reaches the server only if this node owns its keys, counts until the server has answered it, and is acknowledged only
// if the node owned them all along. See DESIGN.md for how.
package gate
