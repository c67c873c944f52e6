// Package store keeps lines until every destination has them.
package store
