// Package tcp has the settings of connections that Go's net does not offer.
package tcp
