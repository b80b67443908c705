"""Machine learning as a service in which no party learns more than it needs."""
