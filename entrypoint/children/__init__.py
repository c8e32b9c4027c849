"""The processes that measure, as their parent starts them, and what they left behind."""
