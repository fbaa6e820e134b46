// Whoever signs out leads to the sign-in page: what this tab kept of theirs is forgotten. Whoever was only sent there to
// sign in again, and comes back to where they were, finds it as it was.
if (document.querySelector(".gate") && !new URLSearchParams(location.search).has("next")) sessionStorage.clear();
