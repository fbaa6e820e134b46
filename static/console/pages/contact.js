// Pages of others under our roof (Django admin, the API's documentation): the bar about the server alone.
import "../contact.js";
