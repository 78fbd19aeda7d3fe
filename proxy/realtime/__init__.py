"""Sessions over a WebSocket: realtime, and responses over one. Imported when the first is opened."""
